"""Kernels that rest in 8 or 4 bits (QLoRA, arXiv 2305.14314): blocks of 64 numbers along the last axis share a scale, their largest size.

int8 has 255 even steps; nf4 the 16 quantiles of a normal distribution of the paper's appendix E, without its second quantization of the
scales. They are quantized once, when they are loaded, and become numbers of the compute dtype again at every use, layer by layer: forward
and backward pass hold one layer's kernel at a time, and devices exchange the codes. A kernel gets no gradient.

These lines are ours and not `qwix`, whose weights stand in for arrays in functions of jax that it replaces while a flax module runs: a
kernel here is an argument of `shard_map`, cast and gathered over fsdp before the product, and a scan slices the stack of layers.
"""

import functools
import math
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import collectives, sharding

Array = jax.Array
KINDS = ("int8", "nf4")
BLOCK = 64  # arXiv 2305.14314, section 3
SPLIT = 8  # blocks, at least, of an axis that lies on several devices
STEPS = 127  # of int8, to either side
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434,
    0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@struct.dataclass
class Quantized:
    """A kernel [..., n] as codes and scales, in the place of the kernel; also their shapes, or their logical axes."""

    codes: Any  # int8 [..., blocks, 64], or uint8 [..., blocks, 32]: code i of a block, and in the upper half of the byte code 32 + i
    scales: Any  # float32 [..., blocks]
    kind: str = struct.field(pytree_node=False)


def is_quantized(leaf: Any) -> bool:
    """Whether it stands in the place of a kernel: for `is_leaf`."""
    return isinstance(leaf, Quantized)


def described(shape: tuple[int, ...], axes: tuple[str | None, ...], kind: str) -> tuple[Any, Any]:
    """(shapes, logical axes) of a kernel of this shape that is stored in a dtype, or in one of KINDS.

    A block is the longest power of two that divides the last axis, 64 at most; where a mesh may split that axis it has 8 blocks or more.

    Raises:
      ValueError: the last axis is odd, and two codes share a byte.
    """
    if kind not in KINDS:
        return jax.ShapeDtypeStruct(shape, kind), axes
    block = _block(shape, axes)
    if kind == "nf4" and block % 2:
        raise ValueError(f"base_dtype='nf4' packs two numbers into a byte, and a linear map ends in {shape[-1]} numbers; use 'int8'.")
    blocks = (*shape[:-1], shape[-1] // block)
    width, dtype = (block // 2, jnp.uint8) if kind == "nf4" else (block, jnp.int8)
    codes, scales = jax.ShapeDtypeStruct((*blocks, width), dtype), jax.ShapeDtypeStruct(blocks, jnp.float32)
    return Quantized(codes, scales, kind), Quantized((*axes, None), axes, kind)


def _block(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> int:
    longest = BLOCK if axes[-1] is None else max(shape[-1] // SPLIT, 2)
    return next(BLOCK >> halved for halved in range(BLOCK) if BLOCK >> halved <= longest and shape[-1] % (BLOCK >> halved) == 0)


@functools.partial(jax.jit, static_argnums=(1, 2))
def quantize(kernel: Array, axes: tuple[str | None, ...], kind: str) -> Quantized:
    """The codes and scales of a kernel, in its shards; a block of zeros has the scale 1."""
    block = _block(kernel.shape, axes)
    shape = (*kernel.shape[:-1], kernel.shape[-1] // block, block)
    blocks = kernel.astype(jnp.float32).reshape(shape, out_sharding=sharding.spec(*axes, None, shape=shape))
    largest = jnp.abs(blocks).max(-1)
    scales = jnp.where(largest > 0, largest, 1.0)
    relative = blocks / scales[..., None]
    if kind == "int8":
        return Quantized(jnp.round(STEPS * relative).astype(jnp.int8), scales, kind)
    middles = (np.array(NF4[1:], np.float32) + np.array(NF4[:-1], np.float32)) / 2
    codes = sum((relative > middle).astype(jnp.uint8) for middle in middles)
    low, high = codes[..., : block // 2], codes[..., block // 2 :]
    return Quantized(low | (high << 4), scales, kind)


def kernel_shape(shapes: Quantized) -> tuple[int, ...]:
    """The shape of the kernel, from those of its parts, or of its parts themselves."""
    *rest, blocks, width = shapes.codes.shape
    return (*rest, blocks * width * (2 if shapes.kind == "nf4" else 1))


def count(tree: Any) -> int:
    """How many numbers a tree of arrays or shapes has, those of kernels counted as numbers."""
    leaves = jax.tree.leaves(tree, is_leaf=is_quantized)
    return sum(math.prod(kernel_shape(leaf)) if is_quantized(leaf) else leaf.size for leaf in leaves)


def stored_as(params: dict[str, Any], shapes: dict[str, Any], axes: dict[str, Any]) -> dict[str, Any]:
    """The params as the shapes of these keys are stored: cast, or quantized layer by layer."""

    def store(shape, axes, leaf):
        if is_quantized(shape):
            return _quantize_stack(leaf, axes.scales, shape.kind)
        return leaf if leaf.dtype == shape.dtype else leaf.astype(shape.dtype)

    return {name: jax.tree.map(store, shapes[name], axes[name], tree, is_leaf=is_quantized) for name, tree in params.items()}


@functools.partial(jax.jit, static_argnums=(1, 2))
def _quantize_stack(stack: Array, axes: tuple[str | None, ...], kind: str) -> Quantized:
    return jax.lax.map(lambda kernel: quantize(kernel, axes[1:], kind), stack)


def dequantized(weight: Quantized, dtype: jnp.dtype, *, place=None) -> Array:
    """The kernel [..., n] in `dtype`: inside `shard_map` of this device's parts, elsewhere with the partition `place`."""
    if weight.kind == "int8":
        values = weight.codes.astype(jnp.float32) / STEPS
    else:
        values = jnp.concatenate([_normal_float(weight.codes & 15), _normal_float(weight.codes >> 4)], axis=-1)
    return (values * weight.scales[..., None]).astype(dtype).reshape(kernel_shape(weight), out_sharding=place)


def _normal_float(codes: Array) -> Array:
    """NF4[codes] by four choices between halves of the table, as a look-up is slow on TPUs."""
    values: list[Any] = [jnp.float32(value) for value in NF4]
    for bit in range(4):
        is_upper = (codes >> bit) & 1 == 1
        values = [jnp.where(is_upper, upper, lower) for lower, upper in zip(values[::2], values[1::2], strict=True)]
    return values[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def product(x: Array, weight: Quantized, places: Quantized, contracted: int, tokens: str) -> Array:
    """x [n, *inputs] times a kernel [*inputs, *outputs], inside `shard_map` of this device's parts: [n, *outputs] in x's dtype.

    The backward pass makes the kernel anew from its codes, so that under no remat policy a kernel is kept.

    Args:
      places: partitions of the parts.
      contracted: how many axes of the kernel are inputs.
      tokens: the logical axis of the tokens.
    """
    dims = tuple(range(1, contracted + 1)), tuple(range(contracted))
    return jax.lax.dot_general(x, _whole(weight, places, tokens, x.dtype), (dims, ((), ())))


def _forward(x: Array, weight: Quantized, places: Quantized, contracted: int, tokens: str):
    return product(x, weight, places, contracted, tokens), weight


def _backward(places: Quantized, contracted: int, tokens: str, weight: Quantized, gradient: Array):
    kernel = _whole(weight, places, tokens, gradient.dtype)
    dims = tuple(range(1, gradient.ndim)), tuple(range(contracted, kernel.ndim))
    return jax.lax.dot_general(gradient, kernel, (dims, ((), ()))), None


product.defvjp(_forward, _backward)


def _whole(weight: Quantized, places: Quantized, tokens: str, dtype: jnp.dtype) -> Array:
    """The kernel, its "embed" axis whole."""

    def gathered(leaf, partition):
        leaf, order = collectives.gather_locally(leaf, partition, tokens)
        return jnp.moveaxis(leaf, 0, order[0])

    return dequantized(Quantized(gathered(weight.codes, places.codes), gathered(weight.scales, places.scales), weight.kind), dtype)

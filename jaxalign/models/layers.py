"""The parts of a decoder layer: declared weights, the one linear map, norms, embedding lookup and rotary positions.

Activations are [N, ...] with N = R * T, split over rows; a weight is cast to the compute dtype, then gathered over fsdp, at its use.
"""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import sharding
from jaxalign.models import lora
from jaxalign.models.config import ModelConfig, RopeScaling

Array = jax.Array


def weight(shape: tuple[int, ...], axes: tuple[str | None, ...], *, fill: float = 0.0, std: float = 0.0, inputs: int = 0) -> nnx.Param:
    """A float32 weight of this shape on these logical axes; random weights start as fill + std * normal.

    Args:
      inputs: of the kernel of a linear map, the number of its first axes that are inputs.
    """
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes, fill=fill, std=std, inputs=inputs)


def gathered(parameter: nnx.Param, dtype: jnp.dtype) -> Array:
    """The weight in `dtype`, its "embed" axis whole."""
    return _gathered(parameter.get_value(), parameter.get_metadata()["axes"], dtype)


def _gathered(value: Array, axes: tuple[str | None, ...], dtype: jnp.dtype) -> Array:
    # The cast stands before the gather, so that the gather moves the narrow type.
    return sharding.gather(value.astype(dtype), *axes[-value.ndim :])


def merge_rows(x: Array) -> Array:
    """[R, T, ...] -> [R * T, ...], the layout of the dense layers: one matrix product over all tokens is the fastest on every backend."""
    return x.reshape(-1, *x.shape[2:], out_sharding=sharding.rows_spec(1) + tuple(jax.typeof(x).sharding.spec[2:]))


def split_rows(x: Array, rows: int) -> Array:
    """[R * T, ...] -> [R, T, ...]. The partition is said: a bare reshape would share the mesh axes out between R and T."""
    return x.reshape(rows, -1, *x.shape[1:], out_sharding=sharding.rows_spec(2) + tuple(jax.typeof(x).sharding.spec[1:]))


class Linear(nnx.Module):
    """A map from `inputs` to `outputs`, two tuples of (size, logical axis)."""

    def __init__(self, inputs, outputs, *, bias: bool, std: float):
        shape, axes = zip(*inputs, *outputs, strict=True)
        self.kernel = weight(shape, axes, std=std, inputs=len(inputs))
        self.bias = weight(*(tuple(x) for x in zip(*outputs, strict=True))) if bias else None
        self.contracted = len(inputs)

    def __call__(self, x: Array) -> Array:
        return linear(x, self.kernel, self.bias, contracted=self.contracted)


def linear(x: Array, kernel: nnx.Param, bias: nnx.Param | None, *, contracted: int) -> Array:
    """x [N, *inputs] times kernel [*inputs, *outputs] plus bias: [N, *outputs] in x's dtype; `contracted` is the number of inputs.

    The result is split over rows and over the output axes that lie on "tensor"; a sum over inputs on "tensor" is reduced here. An adapter,
    where the kernel has one, adds scale (x A) B.
    """
    value, axes = kernel.get_value(), kernel.get_metadata()["axes"]
    if isinstance(value, lora.Adapted):
        y = _product(x, _gathered(value.kernel, axes, x.dtype), contracted)
        narrow = _product(x, _gathered(value.a, (*axes[:contracted], lora.RANK), x.dtype), contracted)
        added = _product(narrow, _gathered(value.b, (lora.RANK, *axes[contracted:]), x.dtype), 1)
        y = y + added * jnp.asarray(value.scale, x.dtype)
    else:
        y = _product(x, gathered(kernel, x.dtype), contracted)
    return y if bias is None else y + gathered(bias, x.dtype)


def _product(x: Array, matrix: Array, contracted: int) -> Array:
    outputs = jax.typeof(matrix).sharding.spec[contracted:]
    dims = (tuple(range(1, contracted + 1)), tuple(range(contracted)))
    return jax.lax.dot_general(x, matrix, (dims, ((), ())), out_sharding=sharding.rows_spec(1) + tuple(outputs))


class Norm(nnx.Module):
    """RMSNorm or LayerNorm over the last axis, computed in float32, returned in the dtype of its input."""

    def __init__(self, size: int, axis: str | None, config: ModelConfig):
        self.scale = weight((size,), (axis,), fill=0.0 if config.norm_offset else 1.0)
        self.bias = weight((size,), (axis,)) if config.norm == "layer" else None
        self.offset, self.eps = float(config.norm_offset), config.norm_eps

    def __call__(self, x: Array) -> Array:
        y = x.astype(jnp.float32)
        if self.bias is not None:
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        y = y * (gathered(self.scale, jnp.float32) + self.offset)
        if self.bias is not None:
            y = y + gathered(self.bias, jnp.float32)
        return y.astype(x.dtype)


def embed(table: nnx.Param, ids: Array, dtype: jnp.dtype) -> Array:
    """Rows of table [V, D] picked by ids int32[R, T]: [R, T, D] in `dtype`.

    A table whose rows lie on "tensor" stays split: every device picks the ids that it holds and the results are summed.
    """
    matrix = gathered(table, dtype)
    stored = jax.typeof(matrix).sharding.spec
    axis = stored[0]

    def local(block: Array, ids: Array) -> Array:
        if axis is None:
            return _take(block, ids, len(block), dtype)
        index = ids - jax.lax.axis_index(axis) * block.shape[0]
        held = (index >= 0) & (index < block.shape[0])
        return jax.lax.psum(jnp.where(held[..., None], _take(block, jnp.where(held, index, 0), len(block), dtype), 0), axis)

    return jax.shard_map(local, in_specs=(stored, sharding.rows_spec(2)), out_specs=sharding.rows_spec(3))(matrix, ids)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _take(block: Array, ids: Array, rows: int, dtype: jnp.dtype) -> Array:
    return block.at[ids].get(mode="fill")  # NaN for a position beyond the table, so that it cannot pass unseen


def _take_forward(block: Array, ids: Array, rows: int, dtype: jnp.dtype):
    return _take(block, ids, rows, dtype), ids


def _take_backward(rows: int, dtype: jnp.dtype, ids: Array, gradient: Array):
    # In float32: a frequent token adds up thousands of terms, of which bfloat16 would drop all but the first few hundred.
    table = jnp.zeros((rows, gradient.shape[-1]), jnp.float32).at[ids].add(gradient.astype(jnp.float32), mode="drop")
    return jax.lax.psum(table, sharding.mesh_axes("rows")).astype(dtype), None


_take.defvjp(_take_forward, _take_backward)


def activate(name: str, x: Array) -> Array:
    """The activation of that name (`config.ACTIVATIONS`), elementwise."""
    functions = {
        "silu": jax.nn.silu,
        "gelu": functools.partial(jax.nn.gelu, approximate=False),
        "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
        "relu": jax.nn.relu,
    }
    return functions[name](x)


def rotary_frequencies(dim: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """Radians a position for each rotated pair: float32[dim / 2]. Llama 3's scaling is that of its published reference code."""
    frequencies = 1.0 / theta ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
    if scaling.kind == "linear":
        frequencies = frequencies / scaling.factor
    elif scaling.kind == "llama3":
        turns = scaling.original_positions * frequencies / (2 * np.pi)  # full turns within the original context
        kept = np.clip((turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency), 0, 1)
        frequencies = frequencies * (kept + (1 - kept) / scaling.factor)
    return frequencies.astype(np.float32)


def rotary_table(positions: Array, frequencies: np.ndarray) -> Array:
    """Cosines and sines of every position: positions int32[N] -> float32[N, 2, dim / 2]."""
    angles = positions.astype(jnp.float32)[:, None] * frequencies
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)


def rotate(x: Array, table: Array) -> Array:
    """x [N, heads, head_dim] with its first 2 * table.shape[-1] elements turned by the rotary table, pairing element i with i + half."""
    half = table.shape[-1]
    cosines, sines = table[:, None, 0], table[:, None, 1]
    first, second = x[..., :half].astype(jnp.float32), x[..., half : 2 * half].astype(jnp.float32)
    turned = jnp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1).astype(x.dtype)
    return turned if 2 * half == x.shape[-1] else jnp.concatenate([turned, x[..., 2 * half :]], axis=-1)

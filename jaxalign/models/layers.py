"""The parts of a decoder layer: declared weights, the one linear map, norms, embedding lookup and rotary positions.

Activations are [N, ...] with N = R * T, split over rows and tokens; a weight is cast to the compute dtype, then gathered over fsdp and
context, at its use.
"""

import functools
import math

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import collectives, sharding
from jaxalign.models import lora, quantized
from jaxalign.models.config import ModelConfig, RopeScaling

Array = jax.Array


def weight(shape: tuple[int, ...], axes: tuple[str | None, ...], *, fill: float = 0.0, std: float = 0.0, inputs: int = 0) -> nnx.Param:
    """A float32 weight of this shape on these logical axes; random weights start as fill + std * normal.

    Args:
      inputs: of the kernel of a linear map, the number of its first axes that are inputs.
    """
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes, fill=fill, std=std, inputs=inputs)


def gathered(parameter: nnx.Param, dtype: jnp.dtype) -> Array:
    """A small weight in `dtype`, its "embed" axis whole. The cast stands before the gather, so that the gather moves the narrow type."""
    return sharding.gather(parameter.get_value().astype(dtype), *parameter.get_metadata()["axes"][-parameter.get_value().ndim :])


def merge_rows(x: Array) -> Array:
    """[R, T, ...] -> [R * T, ...], the layout of the dense layers: one matrix product over all tokens is the fastest on every backend.

    Where tokens are split, every device merges its own part; the order of the whole is then that of the devices.
    """
    rest = tuple(jax.typeof(x).sharding.spec[2:])
    if jax.typeof(x).sharding.spec[1] is None:
        return x.reshape(-1, *x.shape[2:], out_sharding=sharding.rows_spec(1) + rest)
    in_specs, out_specs = sharding.spec("rows", "tokens") + rest, sharding.spec("all_tokens") + rest
    return jax.shard_map(lambda x: x.reshape(-1, *x.shape[2:]), in_specs=in_specs, out_specs=out_specs)(x)


def split_rows(x: Array, rows: int) -> Array:
    """[R * T, ...] -> [R, T, ...], what `merge_rows` undoes. The partition is said: a bare reshape would share axes between R and T."""
    by_row, rest = sharding.rows_spec(1), tuple(jax.typeof(x).sharding.spec[1:])
    if not _by_token(x):
        return x.reshape(rows, -1, *x.shape[1:], out_sharding=by_row + (None,) + rest)
    here = rows // math.prod(jax.sharding.get_abstract_mesh().shape[name] for name in sharding.mesh_axes("rows"))
    in_specs, out_specs = sharding.spec("all_tokens") + rest, sharding.spec("rows", "tokens") + rest
    return jax.shard_map(lambda x: x.reshape(here, -1, *x.shape[1:]), in_specs=in_specs, out_specs=out_specs)(x)


def _by_token(x: Array) -> bool:
    """Whether the tokens of a row lie on several devices in x [N, ...]."""
    return bool(sharding.mesh_axes("tokens")) and jax.typeof(x).sharding.spec[0] == sharding.spec("all_tokens")[0]


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
    value = kernel.get_value()
    if isinstance(value, lora.Adapted):
        added = _product(_product(x, value.a, contracted), value.b, 1)
        y = _product(x, value.kernel, contracted) + added * jnp.asarray(value.scale, x.dtype)
    else:
        y = _product(x, value, contracted)
    return y if bias is None else y + gathered(bias, x.dtype)


def _product(x: Array, stored: Array, contracted: int) -> Array:
    """x [N, *inputs] times a stored weight [*inputs, *outputs], written for one device: so its gradient can be scattered."""
    if quantized.is_quantized(stored):
        return quantized.product(x, stored, contracted)
    partition, tokens = jax.typeof(stored).sharding.spec, sharding.spec("all_tokens")
    whole = sharding.without_embed(partition)
    if sharding.mesh_axes("tokens") and not _by_token(x):  # of a head that reads a few states per row, each on every device of its row
        dims = tuple(range(1, contracted + 1)), tuple(range(contracted))
        return jax.lax.dot_general(x, sharding.gather_whole(stored.astype(x.dtype)), (dims, ((), ())))
    summed = tuple(name for name in whole[:contracted] if name is not None)

    def local(x: Array, part: Array) -> Array:
        matrix, order = collectives.gather_locally(part.astype(x.dtype), partition)  # cast first, so that the narrow type is moved
        dims = tuple(range(1, contracted + 1)), tuple(map(order.index, range(contracted)))
        return jax.lax.psum(jax.lax.dot_general(x, matrix, (dims, ((), ()))), summed)

    in_specs = tokens + whole[:contracted], partition
    return jax.shard_map(local, in_specs=in_specs, out_specs=tokens + whole[contracted:])(x, stored)


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
    """Rows of table [V, D] picked by ids int32[R, T]: [R, T, D] in `dtype`, split over rows and tokens.

    The table stays where it is. Every device picks its part of the width for all tokens that share the table with it, and the parts of a
    token meet on the token's device: an exchange of activations, not of the table or its gradient. Of a table whose rows lie on "tensor"
    every device picks the ids that it holds, and the results are summed.
    """
    stored = jax.typeof(table.get_value()).sharding.spec
    along, axis = sharding.fsdp_axes(stored), stored[0]

    def pick(block: Array, ids: Array) -> Array:
        # NaN for an id beyond the table, so that it cannot pass unseen. The sum of the gradients of a token is float32, as the table is:
        # a frequent token adds up thousands of terms, of which bfloat16 would drop all but the first few hundred.
        return block.at[ids].get(mode="fill").astype(dtype)

    def local(block: Array, ids: Array) -> Array:
        block, ids = collectives.by_row(block, stored), collectives.gather_along(ids, along)
        if axis is None:
            x = pick(block, ids)
        else:
            index = ids - jax.lax.axis_index(axis) * block.shape[0]
            held = (index >= 0) & (index < block.shape[0])
            x = jax.lax.psum(jnp.where(held[..., None], pick(block, jnp.where(held, index, 0)), 0), axis)
        return jax.lax.all_to_all(x, along, split_axis=0, concat_axis=2, tiled=True) if along else x

    in_specs, out_specs = (stored, sharding.spec("rows", "tokens")), sharding.spec("rows", "tokens", None)
    return jax.shard_map(local, in_specs=in_specs, out_specs=out_specs)(table.get_value(), sharding.shard(ids, "rows", "tokens"))


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

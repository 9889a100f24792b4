"""The parts of a decoder layer: declared weights, the one linear map, norms, embedding lookup and rotary positions.

Activations are [N, ...] with N = R * T, split over rows and tokens (`layout`); a weight is cast to the compute dtype, then gathered over
fsdp and context, at its use.
"""

import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import collectives, sharding
from jaxalign.models import layout, lora, quantized
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


class Linear(nnx.Module):
    """A map from `inputs` to `outputs`, two tuples of (size, logical axis)."""

    def __init__(self, inputs, outputs, *, bias: bool, std: float):
        shape, axes = zip(*inputs, *outputs, strict=True)
        self.kernel = weight(shape, axes, std=std, inputs=len(inputs))
        self.bias = weight(*(tuple(x) for x in zip(*outputs, strict=True))) if bias else None
        self.contracted = len(inputs)

    def __call__(self, x: Array, like: Array | None = None) -> Array:
        return linears(x, self, like=like)[0]


def linears(x: Array, *maps: Linear, like: Array | None = None) -> list[Array]:
    """x [N, *inputs] times the kernel [*inputs, *outputs] of each map, plus its bias: [N, *outputs] in x's dtype.

    An adapter, where a kernel has one, adds scale (x A) B. Results have whole tokens and are split over output axes that lie on "tensor";
    tokens of x that are spread are gathered once for all maps, and its gradient is scattered once. Where inputs lie on "tensor", results
    are the sums over it, with tokens that lie as those of `like` [N, ...]; None: whole.
    """
    kernels = [one.kernel.get_value() for one in maps]
    if sharding.mesh_axes("tokens") and not layout.by_token(x):  # of a head that reads a few states per row, on all its devices
        results = [_of_few_states(x, kernel, one.contracted) for kernel, one in zip(kernels, maps, strict=True)]
    else:
        results = _across(x, kernels, [_Place.of(one, kernel) for one, kernel in zip(maps, kernels, strict=True)], like)
    return [y if one.bias is None else y + gathered(one.bias, x.dtype) for y, one in zip(results, maps, strict=True)]


def _of_few_states(x: Array, kernel: Array, contracted: int) -> Array:
    dims = tuple(range(1, contracted + 1)), tuple(range(contracted))
    return jax.lax.dot_general(x, sharding.gather_whole(kernel.astype(x.dtype)), (dims, ((), ())))


class _Place(NamedTuple):
    """Where a linear map lies on the mesh."""

    stored: Any  # the partition of all that is stored of its kernel
    inputs: tuple  # entries of the partition of the whole kernel
    outputs: tuple

    @classmethod
    def of(cls, one: Linear, kernel: Any) -> "_Place":
        stored = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, kernel)
        partition = stored.kernel if isinstance(stored, lora.Adapted) else stored
        whole = sharding.without_embed(partition.scales if quantized.is_quantized(partition) else partition)
        return cls(stored, whole[: one.contracted], whole[one.contracted :])

    @property
    def summed(self) -> tuple[str, ...]:
        """The mesh axes of its inputs."""
        return tuple(name for name in self.inputs if name is not None)

    @property
    def split(self) -> tuple[str, ...]:
        """The mesh axes of its outputs."""
        return tuple(name for name in self.outputs if name is not None)


def _across(x: Array, kernels: list, places: list[_Place], like: Array | None) -> list[Array]:
    """The products, written for one device: so the gradients of x and of kernels can be scattered."""
    before, after = layout.axis_of(x), layout.WHOLE if like is None else layout.axis_of(like)
    axes = [after if place.summed else layout.WHOLE if place.split else before for place in places]

    def local(x: Array, kernels: list) -> list[Array]:
        whole = x
        if split := next((place.split for place in places if place.split), ()):
            whole = collectives.gather_along(x, split) if before == layout.SPREAD else jax.lax.pcast(x, split, to="varying")
        return [one(whole if place.split else x, kernel, place) for kernel, place in zip(kernels, places, strict=True)]

    def one(x: Array, kernel: Any, place: _Place) -> Array:
        y = _product(x, kernel, place.stored, len(place.inputs), layout.SPREAD if place.summed or place.split else before)
        if not place.summed:
            return y
        return collectives.scatter_along(y, place.summed) if after == layout.SPREAD else jax.lax.psum(y, place.summed)

    in_specs = sharding.spec(before) + places[0].inputs, [place.stored for place in places]
    out_specs = [sharding.spec(axis) + place.outputs for axis, place in zip(axes, places, strict=True)]
    results = jax.shard_map(local, in_specs=in_specs, out_specs=out_specs)(x, kernels)
    # Key heads that do not split over "tensor" are computed of spread tokens, not on every device.
    return [y if place.summed else layout.lay(y, layout.WHOLE) for y, place in zip(results, places, strict=True)]


def _product(x: Array, kernel: Any, partition: Any, contracted: int, tokens: str) -> Array:
    """x [n, *inputs] times this device's part of a kernel, which is gathered here; its gradient is summed over the axis `tokens`."""
    if isinstance(kernel, lora.Adapted):
        narrow = _product(x, kernel.a, partition.a, contracted, tokens)
        added = _product(narrow, kernel.b, partition.b, 1, tokens)
        return _product(x, kernel.kernel, partition.kernel, contracted, tokens) + added * jnp.asarray(kernel.scale, x.dtype)
    if quantized.is_quantized(kernel):
        return quantized.product(x, kernel, partition, contracted, tokens)
    matrix, order = collectives.gather_locally(kernel.astype(x.dtype), partition, tokens)  # cast first, so that the narrow type is moved
    dims = tuple(range(1, contracted + 1)), tuple(map(order.index, range(contracted)))
    return jax.lax.dot_general(x, matrix, (dims, ((), ())))


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


def embed(table: nnx.Param, ids: Array, dtype: jnp.dtype, tokens: str = layout.WHOLE) -> Array:
    """Rows of table [V, D] picked by ids int32[R, T]: [N, D] in `dtype`, with N on the logical axis `tokens`.

    The table stays where it is. Every device picks its part of the width for all tokens that share the table with it, and the parts of a
    token meet on the token's device: an exchange of activations, not of the table or its gradient. Of a table whose rows lie on "tensor"
    every device picks the ids that it holds, and the results are summed.
    """
    stored = jax.typeof(table.get_value()).sharding.spec
    along, held_on = sharding.fsdp_axes(stored), sharding.axis_names(stored[0])
    ids = layout.merge_rows(sharding.shard(ids, "rows", "tokens"))
    ids = ids if held_on else layout.lay(ids, tokens)

    def pick(block: Array, ids: Array) -> Array:
        # NaN for an id beyond the table, so that it cannot pass unseen. The sum of the gradients of a token is float32, as the table is:
        # a frequent token adds up thousands of terms, of which bfloat16 would drop all but the first few hundred.
        return block.at[ids].get(mode="fill").astype(dtype)

    def pick_held(block: Array, ids: Array) -> Array:
        index = ids - jax.lax.axis_index(held_on) * block.shape[0]
        held = (index >= 0) & (index < block.shape[0])
        x = jnp.where(held[..., None], pick(block, jnp.where(held, index, 0)), 0)
        return collectives.scatter_along(x, held_on) if tokens == layout.SPREAD else jax.lax.psum(x, held_on)

    def local(block: Array, ids: Array) -> Array:
        block, ids = collectives.by_row(block, stored, tokens), collectives.gather_along(ids[None], along).T
        x = pick_held(block, ids) if held_on else pick(block, ids)  # [n, devices, D / devices]
        return jax.lax.all_to_all(x, along, split_axis=1, concat_axis=2, tiled=True)[:, 0] if along else x[:, 0]

    in_specs = stored, jax.typeof(ids).sharding.spec
    return jax.shard_map(local, in_specs=in_specs, out_specs=sharding.spec(tokens, None))(table.get_value(), ids)


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

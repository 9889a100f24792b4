"""The facade of `models`: a model is a config, a definition and trees of shapes and axes; everything else takes plain nested dicts.

params is a nested dict of float32 arrays whose decoder layers are stacked on a leading "layers" axis. All functions need a mesh in scope
(`jax.set_mesh`), except `build`.
"""

import dataclasses
import functools
from typing import Any
import zlib

from flax import nnx
import jax
import jax.numpy as jnp

from jaxalign import sharding
from jaxalign.models.config import ModelConfig
from jaxalign.models.decoder import Decoder

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """What a model is apart from its numbers. `shapes` and `axes` are the nested dicts of params with other leaves."""

    config: ModelConfig
    definition: nnx.GraphDef
    shapes: dict[str, Any]  # jax.ShapeDtypeStruct
    axes: dict[str, Any]  # tuple of logical axes
    starts: dict[str, Any]  # (fill, std): random weights start as fill + std * normal


def build(config: ModelConfig) -> Model:
    """The model of this config. Nothing is allocated."""
    definition, state = nnx.split(nnx.eval_shape(lambda: Decoder(config)))
    shapes, axes, starts = {}, {}, {}
    for path, parameter in nnx.to_flat_state(state):
        declared = parameter.get_metadata()
        stack = path[0] == "layers"
        shape = ((config.layers,) if stack else ()) + parameter.get_value().shape
        _put(shapes, path, jax.ShapeDtypeStruct(shape, jnp.float32))
        _put(axes, path, (("layers",) if stack else ()) + declared["axes"])
        _put(starts, path, (declared["fill"], declared["std"]))
    return Model(config, definition, shapes, axes, starts)


def shardings(model: Model) -> dict[str, Any]:
    """The partition of every parameter on the mesh in scope.

    Raises:
      ValueError: a dimension that the mesh does not divide.
    """
    return jax.tree.map(lambda shape, axes: sharding.spec(*axes, shape=shape.shape), model.shapes, model.axes)


def init(model: Model, key: Array) -> dict[str, Any]:
    """Random float32 parameters, made in their shards; the same numbers on every mesh."""
    return _draw_all(model, key)


def hidden(
    model: Model,
    params: dict[str, Any],
    tokens: Array,
    positions: Array,
    segments: Array,
    prefixes: Array,
    *,
    dtype: jnp.dtype,
    remat: str,
    attention: str,
) -> Array:
    """Hidden states after the final norm: [R, T, D] in the compute dtype, finite on padding.

    tokens, positions, segments, prefixes are int32[R, T] as in `types.Batch`, rows split over ("data", "fsdp"). remat is "none" (keep all
    but gathered weights), "dots" (keep outputs of linear maps) or "full" (keep layer inputs); attention names an implementation.

    Raises:
      ValueError: an unknown remat policy or attention implementation.
    """
    decoder = nnx.merge(model.definition, params)
    return decoder(tokens, positions, segments, prefixes, dtype=dtype, remat=remat, attention=attention)


def unembed(model: Model, params: dict[str, Any]) -> Array:
    """The output table float32[padded_vocab, D] as it is stored, on ("vocab", "embed"): the head, or the embedding where they are tied."""
    return params["embed"]["tokens"] if model.config.tied else params["head"]["kernel"]


def _put(tree: dict, path: tuple, leaf) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf


@functools.partial(jax.jit, static_argnums=0)
def _draw_all(model: Model, key: Array) -> dict[str, Any]:
    def draw(path, shape, axes, start, partition):
        fill, std = start
        if not std:
            return jnp.full(shape.shape, fill, shape.dtype, out_sharding=partition)
        name = zlib.crc32(jax.tree_util.keystr(path).encode())  # so that no leaf's numbers depend on the other leaves
        values = fill + std * _normal(jax.random.fold_in(key, name), shape.shape, axes, partition)
        if axes[0] == "vocab":
            values = jnp.where(jnp.arange(shape.shape[0])[:, None] < model.config.vocab_size, values, 0)
        return values

    return jax.tree_util.tree_map_with_path(draw, model.shapes, model.axes, model.starts, shardings(model))


def _normal(key: Array, shape: tuple[int, ...], axes: tuple[str | None, ...], partition) -> Array:
    # Never-split axes are drawn as part of the axis before them: random bits of rank 4 take XLA five times as long to compile.
    sizes, drawn = [], []
    for size, axis, entry in zip(shape, axes, partition, strict=True):
        if axis is None and sizes:
            sizes[-1] *= size
        else:
            sizes.append(size)
            drawn.append(None if entry is None else axis)
    return jax.random.normal(key, sizes, jnp.float32, out_sharding=sharding.spec(*drawn)).reshape(shape, out_sharding=partition)

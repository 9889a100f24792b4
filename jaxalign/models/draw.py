"""Random parameters, made in their shards: the same numbers on every mesh and every order of devices."""

import functools
from typing import Any
import zlib

import jax
import jax.numpy as jnp

from jaxalign import sharding
from jaxalign.models import quantized

Array = jax.Array


def partitions(shapes: dict[str, Any], axes: dict[str, Any]) -> dict[str, Any]:
    """The partition of every leaf on the mesh in scope.

    Raises:
      ValueError: a dimension that the mesh does not divide.
    """
    return jax.tree.map(lambda shape, logical: sharding.spec(*logical, shape=shape.shape), shapes, axes)


@functools.partial(jax.jit, static_argnums=(0, 2))
def draw(model, key: Array, parts: tuple[str, ...]) -> dict[str, Any]:
    """fill + std * normal for every leaf of these parts of the parameters of a `model.Model`, in its dtype.

    No leaf's numbers depend on the other leaves. A stacked leaf of a narrow type is drawn layer by layer, so that no float32 copy of it is
    ever there.
    """

    def leaf(path, shape, axes, start, partition):
        fill, std = start
        if not std:
            return jnp.full(shape.shape, fill, shape.dtype, out_sharding=partition)
        name = zlib.crc32(jax.tree_util.keystr(path).encode())
        own = jax.random.fold_in(key, name)
        if quantized.is_quantized(shape):
            axes, kind = axes.scales, shape.kind
            return _by_layer(own, quantized.kernel_shape(shape), axes, start, lambda kernel: quantized.quantize(kernel, axes[1:], kind))
        if axes[0] == "layers" and shape.dtype != jnp.float32:
            return _by_layer(own, shape.shape, axes, start, lambda kernel: kernel.astype(shape.dtype))
        values = fill + std * _normal(own, shape.shape, axes, partition)
        if axes[0] == "vocab":
            values = jnp.where(jnp.arange(shape.shape[0])[:, None] < model.config.vocab_size, values, 0)
        return values.astype(shape.dtype)

    shapes, axes, starts = ({part: tree[part] for part in parts} for tree in (model.shapes, model.axes, model.starts))
    trees = shapes, axes, starts, partitions(shapes, axes)
    return jax.tree_util.tree_map_with_path(leaf, *trees, is_leaf=quantized.is_quantized)


def _by_layer(key: Array, shape: tuple[int, ...], axes: tuple[str | None, ...], start: tuple[float, float], store):
    fill, std = start
    place = sharding.spec(*axes[1:], shape=shape[1:])

    def layer(number):
        return store(fill + std * _normal(jax.random.fold_in(key, number), shape[1:], axes[1:], place))

    return jax.lax.map(layer, jnp.arange(shape[0]))


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

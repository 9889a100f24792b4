"""The parts of a batch that go through a program one after the other, to save memory: each takes every n-th row, its groups with it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxalign import sharding
from jaxalign.types import Array, Batch


def split(batch: Batch, parts: int) -> Batch:
    """Every array [R, ...] or [N, ...] -> [parts, R / parts, ...]; groups stay with their rows.

    Raises:
      ValueError: rows do not split into the parts, or the rows of a part over the devices.
    """
    rows, axes = batch.tokens.shape[0], sharding.mesh_shape()
    sharding.check_rows(rows, parts=parts, data=axes["data"], fsdp=axes["fsdp"])
    return jax.tree.map(lambda x: split_axis(x, parts, rows), batch)


def added_up(function: Callable, parts: Batch):
    """The sum of function(part) over the parts of a batch."""
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, out_sharding=x.sharding), shapes)
    return jax.lax.scan(lambda carry, part: (jax.tree.map(jnp.add, carry, function(part)), None), zeros, parts)[0]


def joined(function: Callable, batch: Batch, parts: int):
    """function(batch), whose arrays are by row or by group, made of function(part) of so many parts."""
    if parts == 1:
        return function(batch)
    found = jax.lax.map(function, split(batch, parts))
    return jax.tree.map(lambda x: join_axis(x, batch.tokens.shape[0]), found)


def split_axis(x: Array, parts: int, rows: int) -> Array:
    """[R * G, ...] -> [parts, R / parts * G, ...]: microbatch m takes rows m, parts + m, ... so that no row changes its device.

    Every row brings its x.shape[0] // rows consecutive entries. `parts` must divide `rows`.
    """
    groups, rest = x.shape[0] // rows, (None,) * (x.ndim - 1)
    # The output shardings are explicit: inference would drop the mesh axis of a dimension of size 1.
    by_row = x.reshape(rows // parts, parts, groups, *x.shape[1:], out_sharding=sharding.spec("rows", None, None, *rest))
    pieces = jnp.moveaxis(by_row, 1, 0)
    return pieces.reshape(parts, rows // parts * groups, *x.shape[1:], out_sharding=sharding.spec(None, "rows", *rest))


def join_axis(x: Array, rows: int) -> Array:
    """[parts, R / parts * G, ...] -> [R * G, ...]: the inverse of `split_axis`."""
    parts, rest = x.shape[0], (None,) * (x.ndim - 2)
    groups = parts * x.shape[1] // rows
    by_part = x.reshape(parts, rows // parts, groups, *x.shape[2:], out_sharding=sharding.spec(None, "rows", None, *rest))
    by_row = jnp.moveaxis(by_part, 0, 1)
    return by_row.reshape(rows * groups, *x.shape[2:], out_sharding=sharding.spec("rows", *rest))

"""Collectives inside `shard_map`: how a weight, which devices share out, is made whole at its use, and its gradient is shared out again."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxalign.sharding import axis_names, fsdp_axes, mesh_axes, without_embed


def gather_locally(w: jax.Array, partition: tuple, tokens: str = "all_tokens") -> tuple[jax.Array, list[int]]:
    """(w with its "embed" axis whole and in front, which dimension of w each of its dimensions is).

    This is the all-gather of ZeRO-3, at the point of use. Its transpose is a reduce-scatter over fsdp and context, then a sum of parts
    over data, and over tensor where tokens are spread over it and w is not.

    Args:
      w: this device's part of a weight, as it comes into shard_map with this partition.
      tokens: the logical axis of the tokens that meet it.
    """
    w, along, order = by_row(w, partition, tokens), fsdp_axes(partition), list(range(w.ndim))
    if along:
        dim = next(dim for dim, entry in enumerate(without_embed(partition)) if entry != partition[dim])
        order.insert(0, order.pop(dim))
        w = gather_along(jnp.moveaxis(w, dim, 0), along)
    return w, order


def by_row(w: jax.Array, partition: tuple, tokens: str = "all_tokens") -> jax.Array:
    """A weight as it comes in with this partition, with a gradient that is summed over the axis `tokens` last of all.

    The sum over data is that of what the weight is before anything is done to it: of a part, where a part is stored.
    """
    held = {name for entry in partition for name in axis_names(entry)}
    return jax.lax.pcast(w, tuple(name for name in mesh_axes(tokens) if name not in held), to="varying")


def gather_along(x: jax.Array, names: Sequence[str]) -> jax.Array:
    """x with its first dimension whole over the mesh axes, of which the first is the outermost."""
    for name in reversed(names):
        x = jax.lax.all_gather(x, name, axis=0, tiled=True)
    return x


def scatter_along(x: jax.Array, names: Sequence[str]) -> jax.Array:
    """The sum of x over the mesh axes, of which every device keeps its part of the first dimension.

    The parts get a dimension of their own: a TPU may store the first one of x innermost, and then reduces all of x instead.
    """
    for name in names:
        parts = x.reshape(jax.lax.axis_size(name), -1, *x.shape[1:])
        x = jax.lax.psum_scatter(parts, name, scatter_dimension=0, tiled=False)
    return x

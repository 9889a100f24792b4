"""Attention under the one rule of `types.Batch`, by an implementation named in `IMPLEMENTATIONS`.

Token i sees token j iff j <= i, segments[i] != 0 and segments[j] is segments[i] or prefixes[i]; with a window also
positions[i] - positions[j] < window. An implementation is plain local code: `attend` runs it on each device's own rows and heads.
"""

import functools

import jax
import jax.numpy as jnp

from jaxalign import sharding
from jaxalign.models.attention.xla import attend_locally

Array = jax.Array


def attend(
    q: Array, k: Array, v: Array, positions: Array, segments: Array, prefixes: Array, window: Array, *, softcap: float, implementation: str
) -> Array:
    """Attention of scaled queries q [R, T, H, E] over k, v [R, T, KV, E]: [R, T, H, E] in q's dtype, zeros on padding.

    positions, segments, prefixes are int32[R, T]; window is int32[], 0 = none; softcap caps the scores, 0 = none.

    Raises:
      ValueError: an implementation that is not in IMPLEMENTATIONS.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"unknown attention {implementation!r}; choose one of {sorted(IMPLEMENTATIONS)}.")
    k, v = split_heads(q, k, v)
    by_head = sharding.spec("rows", None, "heads", None)
    by_row = sharding.rows_spec(2)
    local = functools.partial(IMPLEMENTATIONS[implementation], softcap=softcap)
    in_specs = (by_head, by_head, by_head, by_row, by_row, by_row, sharding.spec())
    mapped = jax.shard_map(local, in_specs=in_specs, out_specs=by_head, check_vma=False)
    return mapped(q, k, v, positions, segments, prefixes, window)


def split_heads(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
    """k and v [R, T, KV, E], split over "tensor" like q [R, T, H, E].

    Where there are fewer key heads than shards, every shard gets those that its queries need, and the result has H heads.
    """
    if jax.typeof(k).sharding.spec[2] is not None or sharding.mesh_shape()["tensor"] == 1:
        return k, v
    k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    return sharding.shard(k, "rows", None, "heads", None), sharding.shard(v, "rows", None, "heads", None)


IMPLEMENTATIONS = {"xla": attend_locally}

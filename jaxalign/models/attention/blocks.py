"""Which blocks of queries and keys of a row meet under the rule of `types.Batch`, found from their ids before any score is computed.

A kernel that meets only these blocks costs what the groups of a row cost, however long the row is, and a block that is seen whole needs
no mask. All functions are plain array code for any leading dimensions and any platform.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
ATTENDED = "attention"  # the name of what an implementation saves for its gradient beside its arguments, for policies of jax.checkpoint


class Met(NamedTuple):
    """The blocks of the other side that every block of one side meets."""

    places: Array  # int32[..., blocks, others]; first those that are seen whole, then those that need the mask, both in ascending order
    whole: Array  # int32[..., blocks]; how many are seen whole
    count: Array  # int32[..., blocks]; how many are met; beyond it `places` repeats the last one, or 0 where there is none


class Part(NamedTuple):
    """A part of the places of a row."""

    first: Array | int  # int32[]
    count: int

    def of(self, x: Array) -> Array:
        """[..., T] -> [..., count]."""
        return x if self.count == x.shape[-1] else jax.lax.dynamic_slice_in_dim(x, self.first, self.count, -1)


def seen(
    positions: Array, segments: Array, prefixes: Array, window: Array, query_block: int, key_block: int, part: Part | None = None
) -> tuple[Array, Array]:
    """(where something may be seen, where all is seen): bool[..., blocks of queries, blocks of keys] both.

    positions, segments, prefixes are int32[..., T]; window is int32[], 0 = none. T is filled up to whole blocks with padding, which sees
    nothing and is not seen; so are the queries, which are the part of the row that is given, or all of it. A block outside the first array
    has nothing to see; one inside it may be met in vain where its range of ids overlaps, which is rare, since the ids of a group are
    consecutive. The second array lies within the first.
    """
    part = part or Part(0, segments.shape[-1])
    position, segment, prefix = (split(part.of(x), query_block) for x in (positions, segments, prefixes))
    key_position, key_segment = (split(x, key_block) for x in (positions, segments))
    first, last = (x[..., None, :] for x in _range(key_segment, key_segment))
    one_key_segment = (first == last) & (key_segment.min(-1) != 0)[..., None, :]
    overlaps, same = False, False
    for wanted in (segment, prefix):
        low, high = (x[..., None] for x in _range(wanted, wanted))
        overlaps |= (low <= last) & (first <= high)
        same |= (low == high) & (wanted.min(-1) != 0)[..., None] & (low == first)
    all_queries = (segment.min(-1) != 0)[..., None]

    (nearest, farthest), (key_nearest, key_farthest) = _range(position, segment), _range(key_position, key_segment)
    overlaps &= (window == 0) | (nearest[..., None] - key_farthest[..., None, :] < window)
    same &= (window == 0) | (farthest[..., None] - key_nearest[..., None, :] < window)

    start, key_start = part.first + jnp.arange(segment.shape[-2])[:, None] * query_block, jnp.arange(key_segment.shape[-2]) * key_block
    overlaps &= key_start < start + query_block
    return overlaps, overlaps & same & one_key_segment & all_queries & (key_start + key_block <= start + 1)


def listed(meets: Array, whole: Array) -> Met:
    """The lists of bool[..., blocks, others] as from `seen`; of the swapped arrays, the lists of the other side."""
    wholes, count = whole.sum(-1, dtype=jnp.int32), meets.sum(-1, dtype=jnp.int32)

    def places(chosen: Array, number: Array) -> Array:
        # Before the chosen one of a number stand all blocks whose running count is not above that number; a sort would cost more.
        running = jnp.cumsum(chosen, -1, dtype=jnp.int32)
        return (running[..., None, :] <= number[..., None]).sum(-1, dtype=jnp.int32)

    number = jnp.minimum(jnp.arange(meets.shape[-1], dtype=jnp.int32), count[..., None] - 1)
    partly = number - wholes[..., None]
    return Met(jnp.where(partly < 0, places(whole, number), places(meets & ~whole, partly)), wholes, count)


def split(x: Array, size: int) -> Array:
    """[..., T] -> [..., blocks, size], filled up with zeros."""
    blocks = -(-x.shape[-1] // size)
    filled = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, blocks * size - x.shape[-1])])
    return filled.reshape(*x.shape[:-1], blocks, size)


def _range(values: Array, present: Array) -> tuple[Array, Array]:
    """The smallest and the largest value of every block where `present` is not 0; nothing is in the range of a block that has none."""
    most = jnp.iinfo(jnp.int32).max
    return jnp.where(present != 0, values, most).min(-1), jnp.where(present != 0, values, -1).max(-1)

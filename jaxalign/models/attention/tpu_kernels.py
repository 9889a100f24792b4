"""The three TPU kernels of the attention rule, each for one stack of heads and one pair of blocks: values, dq, dk and dv.

All of them read q [1, S, B, E], k and v [1, B, E] and marks int32[1, ROWS, B] of the queries and of the keys, and add up in float32 over
the pairs of their outer block. Scores are [B, B]: queries by keys, and in `key_kernel` keys by queries, so that no product transposes them.
"""

from collections.abc import Iterable

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

Array = jax.Array

LANES, ROWS = 128, 8  # of a vector register
SEGMENT, POSITION, *SEEN = range(5)  # rows of the marks: a key's own; and the two segments and the nearest position that a query sees
NONE = -1e30  # the score of what is not seen


def forward_kernel(outer, inner, ahead, q, k, v, query_marks, key_marks, out, normalizer, seen, largest, total, sums, *, softcap):
    """Writes the attention [1, S, B, E] of a block of queries and the log-sum-exp of its scores, at the last block of keys."""
    heads, block, size = sums.shape
    first, last = _ends(outer)

    @pl.when(first)
    def _():
        _store_columns(seen, query_marks[0], SEEN)

    hidden = _hidden_keys(seen, key_marks, ahead)
    for head in range(heads):
        scores = _scores(q[0, head], k[0], softcap) + hidden
        old = jnp.where(first, NONE, largest[head])
        new = jnp.maximum(old, scores.max(1, keepdims=True))
        powers, kept = jnp.exp(scores - _wide(new, block)), jnp.exp(old - new)
        # A query that has seen nothing yet adds up ones here, which `kept` = 0 wipes out as soon as it sees something.
        total[head] = jnp.where(first, 0, total[head] * kept) + _lane_sums(powers)
        sums[head] = jnp.where(first, 0, sums[head] * _wide(kept, size)) + _product(powers.astype(v.dtype), v[0], 1, 0)
        largest[head] = new

    @pl.when(last)
    def _():
        real, lane = seen[0] >= 0, jax.lax.broadcasted_iota(jnp.int32, (block, LANES), 1)
        totals, tops = jnp.ones((block, LANES), jnp.float32), jnp.zeros((block, LANES), jnp.float32)  # of a head in each lane
        for head in range(heads):
            whole = jnp.broadcast_to(total[head].sum(1, keepdims=True), (block, LANES))
            out[0, head] = (sums[head] * _wide(jnp.where(real, 1 / whole, 0), size)).astype(out.dtype)
            totals, tops = jnp.where(lane == head, whole, totals), jnp.where(lane == head, largest[head], tops)
        normalizer[0] = jnp.where(real, tops + jnp.log(totals), 0).T[:ROWS]


def query_kernel(outer, inner, ahead, q, gradient, numbers, k, v, query_marks, key_marks, dq, seen, columns, sums, *, softcap):
    """Writes dq [1, S, B, E] of a block of queries. numbers have the log-sum-exp, then out . gradient, of every head."""
    heads, block, _ = sums.shape
    first, last = _ends(outer)

    @pl.when(first)
    def _():
        _store_columns(seen, query_marks[0], SEEN)
        _store_columns(columns, numbers[0], range(2 * heads))

    hidden = _hidden_keys(seen, key_marks, ahead)
    for head in range(heads):
        scores = _scores(q[0, head], k[0], softcap)
        weights = jnp.exp(scores + hidden - _wide(columns[head], block))
        ds = weights * (_product(gradient[0, head], v[0], 1, 1) - _wide(columns[heads + head], block))
        added = _product(_uncapped(ds, scores, softcap).astype(k.dtype), k[0], 1, 0)
        sums[head] = jnp.where(first, 0, sums[head]) + added

    @pl.when(last)
    def _():
        dq[0] = sums[...].astype(dq.dtype)


def key_kernel(outer, inner, ahead, q, gradient, numbers, k, v, query_marks, key_marks, dk, dv, seen, key_sums, value_sums, *, softcap):
    """Writes dk and dv [1, B, E] of a block of keys, summed over the stack of heads."""
    first, last = _ends(outer)
    heads = q.shape[1]

    @pl.when(first)
    def _():
        _store_columns(seen, key_marks[0], (SEGMENT, POSITION))
        key_sums[...] = jnp.zeros(key_sums.shape, jnp.float32)
        value_sums[...] = jnp.zeros(value_sums.shape, jnp.float32)

    hidden = _hidden_queries(seen, query_marks, ahead)
    for head in range(heads):
        scores = _scores(k[0], q[0, head], softcap)
        weights = jnp.exp(scores + hidden - numbers[0, head][None])
        value_sums[...] += _product(weights.astype(gradient.dtype), gradient[0, head], 1, 0)
        ds = weights * (_product(v[0], gradient[0, head], 1, 1) - numbers[0, heads + head][None])
        key_sums[...] += _product(_uncapped(ds, scores, softcap).astype(q.dtype), q[0, head], 1, 0)

    @pl.when(last)
    def _():
        dk[0], dv[0] = key_sums[...].astype(dk.dtype), value_sums[...].astype(dv.dtype)


def _ends(outer) -> tuple[Array, Array]:
    """(whether this pair is the first, whether it is the last of its outer block)."""
    step = pl.program_id(1)
    return (step == 0) | (outer[step] != outer[jnp.maximum(step - 1, 0)]), outer[step] != outer[step + 1]


def _hidden_keys(seen, key_marks, ahead) -> Array:
    """float32[queries, keys]: 0 where a query sees a key, else NONE."""
    size = key_marks.shape[2]
    queries = (_wide(seen[i], size) for i in range(len(SEEN)))
    after = _places(size, 1) - _places(size, 0) <= ahead[pl.program_id(1)]
    return _rule(*queries, key_marks[0, SEGMENT][None], key_marks[0, POSITION][None], after)


def _hidden_queries(seen, query_marks, ahead) -> Array:
    """The same, float32[keys, queries]."""
    size = query_marks.shape[2]
    queries = (query_marks[0, mark][None] for mark in SEEN)
    after = _places(size, 0) - _places(size, 1) <= ahead[pl.program_id(1)]
    return _rule(*queries, _wide(seen[0], size), _wide(seen[1], size), after)


def _rule(segment, prefix, nearest, key_segment, key_position, not_after):
    visible = ((key_segment == segment) | (key_segment == prefix)) & (key_position >= nearest) & not_after
    return jnp.where(visible, 0.0, NONE)


def _scores(left: Array, right: Array, softcap: float) -> Array:
    scores = _product(left, right, 1, 1)
    return softcap * jnp.tanh(scores / softcap) if softcap else scores


def _uncapped(gradient: Array, scores: Array, softcap: float) -> Array:
    return gradient * (1 - (scores / softcap) ** 2) if softcap else gradient


def _product(left: Array, right: Array, left_axis: int, right_axis: int) -> Array:
    # bfloat16 has one precision; for float32 it is what jax.default_matmul_precision says, as everywhere.
    precision = jax.lax.Precision.DEFAULT if left.dtype == jnp.bfloat16 else None
    dims = ((left_axis,), (right_axis,)), ((), ())
    return jax.lax.dot_general(left, right, dims, precision=precision, preferred_element_type=jnp.float32)


def _store_columns(columns, rows: Array, chosen: Iterable[int]) -> None:
    """Writes the chosen rows of [n, B] to [.., B, LANES], each the same in every lane."""
    cells = rows.T
    for i, row in enumerate(chosen):
        columns[i] = jnp.broadcast_to(cells[:, row : row + 1], columns.shape[1:])


def _wide(column: Array, width: int) -> Array:
    """[B, LANES], the same in every lane, -> [B, width]."""
    return jnp.tile(column, (1, -(-width // LANES)))[:, :width]


def _lane_sums(x: Array) -> Array:
    """[B, n LANES] -> [B, LANES]; their sum over lanes is that of x."""
    return sum(x[:, i : i + LANES] for i in range(0, x.shape[1], LANES))


def _places(size: int, axis: int) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, (size, size), axis)

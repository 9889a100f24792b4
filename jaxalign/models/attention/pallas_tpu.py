"""The attention rule as a flash kernel for TPUs (Pallas, Mosaic): values, and gradients by two more kernels.

Blocks of queries meet only the blocks of keys in which something is visible: the pairs of blocks of all rows form one list, of which
every step of the grid takes one (scalar prefetch), so that nothing is fetched or computed for what no query sees. The rule is compared in
the kernel, from ids and positions, in blocks that are not seen whole. Soft-max and sums are float32 (arXiv 2307.08691, algorithms 1
and 2). The heads that share a key head are met together: their keys are fetched, and the rule is compared, once.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from jaxalign.models.attention import blocks

Array = jax.Array

BLOCK = 256  # queries, and keys, of a block
LANES = 128  # of a vector register; a block is a multiple of it
STACK_BYTES, MOST_STACKED = 2**20, 8  # of the queries of a block that are met together; what belongs to them fits into 16 MiB of VMEM
NONE = -1e30  # the score of what is not seen
SEGMENT, POSITION, *SEEN = range(5)  # rows of `_marks`: of keys, and of queries
ROWS = 8  # of a vector register: numbers per token come as so many rows


class Pairs(NamedTuple):
    """The pairs of blocks that meet, in the order in which they do. Blocks are numbered through all rows."""

    outer: Array  # int32[P + 1]; the block that adds up what it meets, in ascending order; -1 beyond the last pair
    inner: Array  # int32[P + 1]; the block that it meets
    count: Array  # int32[]


def attend_locally(
    q: Array, k: Array, v: Array, positions: Array, segments: Array, prefixes: Array, window: Array, *, softcap: float, interpret=False
) -> Array:
    """Attention of scaled queries, see `rule.attend`. Beside its arguments only the result and a number per query and head are saved.

    With `interpret` it runs on any device, slowly.
    """
    return _attention(q, k, v, positions, segments, prefixes, window, softcap, interpret)


@partial(jax.custom_vjp, nondiff_argnums=(7, 8))
def _attention(q, k, v, positions, segments, prefixes, window, softcap, interpret):
    return _forward(q, k, v, positions, segments, prefixes, window, softcap, interpret)[0]


def _forward(q, k, v, positions, segments, prefixes, window, softcap, interpret):
    ids, block, stacks = (positions, segments, prefixes, window), _block(q), _stacks(q, k)
    pairs, _ = _pairs(*ids, block)
    marks, queries = _marks(*ids, block), _by_head(q, block, stacks)
    keys, values = (_by_head(x, block, k.shape[2])[:, 0] for x in (k, v))
    heads, tokens, size = queries.shape[1:]
    column = (heads, block, LANES), jnp.float32
    out, normalizer = _call(
        partial(_forward_kernel, softcap=softcap),
        pairs,
        [(queries, 2, "outer"), (keys, 1, "inner"), (values, 1, "inner"), (marks, 2, "outer"), (marks, 2, "inner")],
        [(queries.shape, q.dtype, 2), ((stacks, ROWS, tokens), jnp.float32, 2)],
        [((3, block, LANES), jnp.int32), column, column, ((heads, block, size), jnp.float32)],
        block,
        interpret,
    )
    out = _by_row(out, *q.shape[:2])
    return out, (q, k, v, *ids, out, normalizer[:, :heads])


def _backward(softcap, interpret, saved, gradient):
    q, k, v, *ids, out, normalizer = saved
    block, stacks = _block(q), len(normalizer)
    by_query, by_key = _pairs(*ids, block)
    marks = _marks(*ids, block)
    # d scores = weights (d weights - sum_t weights d weights), and that sum is out . gradient
    mean = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    queries, gradients, mean = (_by_head(x, block, stacks) for x in (q, gradient, mean))
    numbers = jnp.concatenate([normalizer, mean[..., 0]], 1)
    numbers = jnp.pad(numbers, [(0, 0), (0, -numbers.shape[1] % ROWS), (0, 0)])
    keys, values = (_by_head(x, block, k.shape[2])[:, 0] for x in (k, v))
    _, heads, tokens, size = queries.shape
    cells = (block, size), jnp.float32

    def arguments(of_queries, of_keys):
        by_queries = [(x, 2, of_queries) for x in (queries, gradients, numbers)]
        return [*by_queries, (keys, 1, of_keys), (values, 1, of_keys), (marks, 2, of_queries), (marks, 2, of_keys)]

    (dq,) = _call(
        partial(_query_kernel, softcap=softcap),
        by_query,
        arguments("outer", "inner"),
        [(queries.shape, q.dtype, 2)],
        [((3, block, LANES), jnp.int32), ((2 * heads, block, LANES), jnp.float32), ((heads, block, size), jnp.float32)],
        block,
        interpret,
    )
    # Stacks that share a key head add up to its gradient, which is rounded once.
    dtype = k.dtype if stacks == k.shape[2] else jnp.float32
    dk, dv = _call(
        partial(_key_kernel, softcap=softcap),
        by_key,
        arguments("inner", "outer"),
        [((stacks, tokens, size), dtype, 1)] * 2,
        [((2, block, LANES), jnp.int32), cells, cells],
        block,
        interpret,
    )
    dk, dv = (_by_row(x.reshape(k.shape[2], -1, tokens, size).sum(1, keepdims=True), *k.shape[:2]).astype(k.dtype) for x in (dk, dv))
    return _by_row(dq, *q.shape[:2]), dk, dv, None, None, None, None


_attention.defvjp(_forward, _backward)


def _call(kernel: Callable, pairs: Pairs, inputs: Sequence, outputs: Sequence, scratch: Sequence, block: int, interpret: bool) -> list:
    """The outputs of a kernel that runs once for each head and pair.

    inputs are (array, axis of tokens, "outer" or "inner"); outputs are (shape, dtype, axis of tokens) and belong to the outer block. The
    heads are the first axis of the outputs; several share one entry of an input that has fewer.
    """
    heads = outputs[0][0][0]

    def blocked(shape, axis, side):
        def place(head, step, outer, inner):
            block_number = (outer if side == "outer" else inner)[step]
            return head * shape[0] // heads, *(block_number if i == axis else 0 for i in range(1, len(shape)))

        return pl.BlockSpec((1, *(block if i == axis else shape[i] for i in range(1, len(shape)))), place)

    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=2,
        grid=(heads, pairs.count),
        in_specs=[blocked(array.shape, axis, side) for array, axis, side in inputs],
        out_specs=[blocked(shape, axis, "outer") for shape, _, axis in outputs],
        scratch_shapes=[pltpu.VMEM(*one) for one in scratch],
    )
    call = pl.pallas_call(
        kernel,
        grid_spec=grid,
        out_shape=[jax.ShapeDtypeStruct(shape, dtype) for shape, dtype, _ in outputs],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name=kernel.func.__name__.strip("_"),
    )
    return call(pairs.outer, pairs.inner, *(array for array, _, _ in inputs))


# The kernels know one stack of heads and one pair of blocks: q [1, S, B, E], k and v [1, B, E], numbers of queries [1, 2 S or more, B]
# (normalizers, then means), marks [1, ROWS, B]. Scores are [B, B]: queries by keys, and in the kernel of keys the other way round, so that
# no product transposes them.


def _forward_kernel(outer, inner, q, k, v, query_marks, key_marks, out, normalizer, seen, largest, total, sums, *, softcap):
    heads, block, size = sums.shape
    first, last = _ends(outer)

    @pl.when(first)
    def _():
        _store_columns(seen, query_marks[0], SEEN)

    hidden = _hidden_keys(seen, key_marks, outer, inner)
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


def _query_kernel(outer, inner, q, gradient, numbers, k, v, query_marks, key_marks, dq, seen, columns, sums, *, softcap):
    heads, block, _ = sums.shape
    first, last = _ends(outer)

    @pl.when(first)
    def _():
        _store_columns(seen, query_marks[0], SEEN)
        _store_columns(columns, numbers[0], range(2 * heads))

    hidden = _hidden_keys(seen, key_marks, outer, inner)
    for head in range(heads):
        scores = _scores(q[0, head], k[0], softcap)
        weights = jnp.exp(scores + hidden - _wide(columns[head], block))
        ds = weights * (_product(gradient[0, head], v[0], 1, 1) - _wide(columns[heads + head], block))
        added = _product(_uncapped(ds, scores, softcap).astype(k.dtype), k[0], 1, 0)
        sums[head] = jnp.where(first, 0, sums[head]) + added

    @pl.when(last)
    def _():
        dq[0] = sums[...].astype(dq.dtype)


def _key_kernel(outer, inner, q, gradient, numbers, k, v, query_marks, key_marks, dk, dv, seen, key_sums, value_sums, *, softcap):
    first, last = _ends(outer)
    heads = q.shape[1]

    @pl.when(first)
    def _():
        _store_columns(seen, key_marks[0], (SEGMENT, POSITION))
        key_sums[...] = jnp.zeros(key_sums.shape, jnp.float32)
        value_sums[...] = jnp.zeros(value_sums.shape, jnp.float32)

    hidden = _hidden_queries(seen, query_marks, outer, inner)
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


def _hidden_keys(seen, key_marks, outer, inner) -> Array:
    """float32[queries, keys]: 0 where a query sees a key, else NONE."""
    size = key_marks.shape[2]
    queries = (_wide(seen[i], size) for i in range(len(SEEN)))
    ahead = (outer[pl.program_id(1)] - inner[pl.program_id(1)]) * size
    after = _places(size, 1) - _places(size, 0) <= ahead
    return _rule(*queries, key_marks[0, SEGMENT][None], key_marks[0, POSITION][None], after)


def _hidden_queries(seen, query_marks, outer, inner) -> Array:
    """The same, float32[keys, queries]."""
    size = query_marks.shape[2]
    queries = (query_marks[0, mark][None] for mark in SEEN)
    ahead = (inner[pl.program_id(1)] - outer[pl.program_id(1)]) * size
    after = _places(size, 0) - _places(size, 1) <= ahead
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


def _block(q: Array) -> int:
    """Tokens of a block: BLOCK, or less for a shorter row."""
    return min(BLOCK, -(-q.shape[1] // LANES) * LANES)


def _stacks(q: Array, k: Array) -> int:
    """Into how many stacks the heads are divided: key heads times the parts of each one's queries.

    A single key head is divided where it can be, so that both cores of a chip that has two get one half.
    """
    group, kv_heads = q.shape[2] // k.shape[2], k.shape[2]
    head_bytes = _block(q) * max(q.shape[3], LANES) * q.dtype.itemsize
    most = min(MOST_STACKED, STACK_BYTES // head_bytes, group if kv_heads > 1 else max(group // 2, 1))
    return kv_heads * next(group // heads for heads in range(max(most, 1), 0, -1) if group % heads == 0)


def _by_head(x: Array, block: int, stacks: int) -> Array:
    """[R, T, H, E] -> [stacks, H / stacks, R * T, E], with T filled up to whole blocks."""
    rows, length, heads, size = x.shape
    x = jnp.pad(x, [(0, 0), (0, -length % block), (0, 0), (0, 0)])
    x = x.reshape(rows, -1, stacks, heads // stacks, size)
    return x.transpose(2, 3, 0, 1, 4).reshape(stacks, heads // stacks, -1, size)


def _by_row(x: Array, rows: int, length: int) -> Array:
    """[stacks, H / stacks, R * T, E] -> [R, T, H, E], without what filled the rows up."""
    size = x.shape[-1]
    x = x.reshape(*x.shape[:2], rows, -1, size).transpose(2, 3, 0, 1, 4)
    return x.reshape(rows, x.shape[1], -1, size)[:, :length]


def _marks(positions: Array, segments: Array, prefixes: Array, window: Array, block: int) -> Array:
    """What decides who sees whom: int32[1, 8, R * T].

    A key has its segment and position. A query has the segment and the prefix that it sees (the segment again, where it has none; -1, which
    no key has, for padding) and the position of the farthest key in its window.
    """
    real = segments != 0
    seen = jnp.where(real, segments, -1)
    prefix = jnp.where(real & (prefixes != 0), prefixes, seen)
    nearest = jnp.where(window == 0, jnp.iinfo(jnp.int32).min, positions - window + 1)
    nothing = jnp.zeros_like(segments)
    rows = jnp.stack([segments, positions, seen, prefix, nearest, *[nothing] * (ROWS - 5)])
    fill = jnp.array([0, 0, -1, -1, 0, 0, 0, 0], jnp.int32)[:, None, None]
    rows = jnp.concatenate([rows, jnp.broadcast_to(fill, (ROWS, len(segments), -segments.shape[1] % block))], 2)
    return rows.reshape(1, ROWS, -1)


def _pairs(positions: Array, segments: Array, prefixes: Array, window: Array, block: int) -> tuple[Pairs, Pairs]:
    """The pairs of blocks that meet, for every block of queries and for every block of keys."""
    meets, _ = blocks.seen(positions, segments, prefixes, window, block, block)
    meets |= jnp.eye(meets.shape[-1], dtype=bool)  # every block is written, also one that sees nothing
    return _listed(meets), _listed(meets.swapaxes(1, 2))


def _listed(meets: Array) -> Pairs:
    """The pairs of bool[R, n, n] in order."""
    rows, n, _ = meets.shape
    running = jnp.cumsum(meets.ravel(), dtype=jnp.int32)
    number = jnp.arange(1, rows * n * (n + 1) // 2 + 2, dtype=jnp.int32)  # as many pairs as a causal mask leaves, and one more
    # Before the cell of a number stand all whose running count is below it: on a TPU a scatter, a sort or a search would cost more.
    cell = (running < number[:, None]).sum(1, dtype=jnp.int32)
    outer = cell // n
    return Pairs(jnp.where(number <= running[-1], outer, -1), outer // n * n + cell % n, running[-1])

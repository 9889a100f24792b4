"""The attention rule as a flash kernel for TPUs (Pallas, Mosaic): values, and gradients by two more kernels.

Blocks of queries meet only the blocks of keys in which something is visible: the pairs of blocks of all rows form one list, of which
every step of the grid takes one (scalar prefetch), so that nothing is fetched or computed for what no query sees. The rule is compared in
the kernel, from ids and positions, in blocks that are not seen whole. Soft-max and sums are float32 (arXiv 2307.08691, algorithms 1
and 2). The heads that share a key head are met together: their keys are fetched, and the rule is compared, once.
"""

from collections.abc import Callable, Sequence
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
SEGMENT, POSITION, SEEN_SEGMENT, SEEN_PREFIX, NEAREST = range(5)  # rows of `_marks`


class Pairs(NamedTuple):
    """The pairs of blocks that meet, in the order in which they do. Blocks are numbered through all rows."""

    outer: Array  # int32[P + 1]; the block that adds up what it meets, in ascending order; -1 beyond the last pair
    inner: Array  # int32[P + 1]; the block that it meets
    whole: Array  # int32[P + 1]; 1: all is seen
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
        [(queries.shape, q.dtype, 2), ((stacks, heads, tokens), jnp.float32, 2)],
        [((3, block, LANES), jnp.int32), column, column, ((heads, block, size), jnp.float32)],
        block,
        interpret,
    )
    out = _by_row(out, *q.shape[:2])
    return out, (q, k, v, *ids, out, normalizer)


def _backward(softcap, interpret, saved, gradient):
    q, k, v, *ids, out, normalizer = saved
    block, stacks = _block(q), len(normalizer)
    by_query, by_key = _pairs(*ids, block)
    marks = _marks(*ids, block)
    # d scores = weights (d weights - sum_t weights d weights), and that sum is out . gradient
    mean = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    queries, gradients, mean = (_by_head(x, block, stacks) for x in (q, gradient, mean))
    keys, values = (_by_head(x, block, k.shape[2])[:, 0] for x in (k, v))
    _, heads, tokens, size = queries.shape
    column, cells = ((heads, block, LANES), jnp.float32), ((block, size), jnp.float32)

    def arguments(of_queries, of_keys):
        by_queries = [(queries, 2, of_queries), (gradients, 2, of_queries), (normalizer, 2, of_queries), (mean[..., 0], 2, of_queries)]
        return [*by_queries, (keys, 1, of_keys), (values, 1, of_keys), (marks, 2, of_queries), (marks, 2, of_keys)]

    (dq,) = _call(
        partial(_query_kernel, softcap=softcap),
        by_query,
        arguments("outer", "inner"),
        [(queries.shape, q.dtype, 2)],
        [((3, block, LANES), jnp.int32), column, column, ((heads, block, size), jnp.float32)],
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
        def place(head, step, outer, inner, whole):
            block_number = (outer if side == "outer" else inner)[step]
            return head * shape[0] // heads, *(block_number if i == axis else 0 for i in range(1, len(shape)))

        return pl.BlockSpec((1, *(block if i == axis else shape[i] for i in range(1, len(shape)))), place)

    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=3,
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
    return call(*pairs[:3], *(array for array, _, _ in inputs))


# The kernels know one stack of heads and one pair of blocks: q [1, S, B, E], k and v [1, B, E], numbers per query [1, S, B], marks
# [1, MARKS, B]. Scores are [B, B]: queries by keys, and in the kernel of keys the other way round, so that no product transposes them.


def _forward_kernel(outer, inner, whole, q, k, v, query_marks, key_marks, out, normalizer, seen, largest, total, sums, *, softcap):
    def begin():
        for i, mark in enumerate((SEEN_SEGMENT, SEEN_PREFIX, NEAREST)):
            seen[i] = _column(query_marks[0, mark])
        largest[...] = jnp.full(largest.shape, NONE)
        total[...] = jnp.zeros(total.shape)
        sums[...] = jnp.zeros(sums.shape)

    def meet(masked, later):
        hidden = _hidden_keys(seen, key_marks, later) if masked else None
        for head in range(q.shape[1]):
            scores = _hide(_scores(q[0, head], k[0], softcap), hidden)
            old = largest[head]
            new = jnp.maximum(old, scores.max(1, keepdims=True))
            powers, kept = jnp.exp(scores - _wide(new, scores.shape[1])), jnp.exp(old - new)
            # A query that has seen nothing yet adds up ones here, which `kept` = 0 wipes out as soon as it sees something.
            total[head] = total[head] * kept + _lane_sums(powers)
            sums[head] = sums[head] * _wide(kept, sums.shape[2]) + _product(powers.astype(v.dtype), v[0], 1, 0)
            largest[head] = new

    def end():
        real = seen[0] >= 0
        for head in range(q.shape[1]):
            whole_total = jnp.broadcast_to(total[head].sum(1, keepdims=True), total.shape[1:])
            share = _wide(jnp.where(real, 1 / whole_total, 0), sums.shape[2])
            out[0, head] = (sums[head] * share).astype(out.dtype)
            normalizer[0, head] = _row(jnp.where(real, largest[head] + jnp.log(whole_total), 0))

    _one_step(outer, inner, whole, begin, meet, end)


def _query_kernel(
    outer, inner, whole, q, gradient, normalizer, mean, k, v, query_marks, key_marks, dq, seen, normalizers, means, sums, *, softcap
):
    def begin():
        for i, mark in enumerate((SEEN_SEGMENT, SEEN_PREFIX, NEAREST)):
            seen[i] = _column(query_marks[0, mark])
        for head in range(q.shape[1]):
            normalizers[head], means[head] = _column(normalizer[0, head]), _column(mean[0, head])
        sums[...] = jnp.zeros(sums.shape)

    def meet(masked, later):
        hidden = _hidden_keys(seen, key_marks, later) if masked else None
        for head in range(q.shape[1]):
            scores = _scores(q[0, head], k[0], softcap)
            weights = jnp.exp(_hide(scores, hidden) - _wide(normalizers[head], scores.shape[1]))
            ds = weights * (_product(gradient[0, head], v[0], 1, 1) - _wide(means[head], scores.shape[1]))
            sums[head] += _product(_uncapped(ds, scores, softcap).astype(k.dtype), k[0], 1, 0)

    def end():
        dq[0] = sums[...].astype(dq.dtype)

    _one_step(outer, inner, whole, begin, meet, end)


def _key_kernel(
    outer, inner, whole, q, gradient, normalizer, mean, k, v, query_marks, key_marks, dk, dv, seen, key_sums, value_sums, *, softcap
):
    def begin():
        for i, mark in enumerate((SEGMENT, POSITION)):
            seen[i] = _column(key_marks[0, mark])
        key_sums[...] = jnp.zeros(key_sums.shape)
        value_sums[...] = jnp.zeros(value_sums.shape)

    def meet(masked, earlier):
        hidden = _hidden_queries(seen, query_marks, -earlier) if masked else None
        for head in range(q.shape[1]):
            scores = _scores(k[0], q[0, head], softcap)
            weights = jnp.exp(_hide(scores, hidden) - normalizer[0, head][None])
            value_sums[...] += _product(weights.astype(gradient.dtype), gradient[0, head], 1, 0)
            ds = weights * (_product(v[0], gradient[0, head], 1, 1) - mean[0, head][None])
            key_sums[...] += _product(_uncapped(ds, scores, softcap).astype(q.dtype), q[0, head], 1, 0)

    def end():
        dk[0], dv[0] = key_sums[...].astype(dk.dtype), value_sums[...].astype(dv.dtype)

    _one_step(outer, inner, whole, begin, meet, end)


def _one_step(outer, inner, whole, begin, meet, end):
    """begin, meet(masked, outer - inner block) and end, where they are due."""
    step = pl.program_id(1)
    pl.when((step == 0) | (outer[step] != outer[jnp.maximum(step - 1, 0)]))(begin)
    pl.when(whole[step] == 1)(lambda: meet(False, 0))
    pl.when(whole[step] == 0)(lambda: meet(True, outer[step] - inner[step]))
    pl.when(outer[step] != outer[step + 1])(end)


def _hidden_keys(seen, key_marks, later: Array) -> Array:
    """float32[queries, keys]: 0 where a query sees a key, else NONE; `later` is by how many blocks the queries lie behind the keys."""
    size = key_marks.shape[2]
    queries = (_wide(seen[i], size) for i in range(3))
    after = _places(size, 1) - _places(size, 0)
    return _rule(*queries, key_marks[0, SEGMENT][None], key_marks[0, POSITION][None], after <= later * size)


def _hidden_queries(seen, query_marks, later: Array) -> Array:
    """The same, float32[keys, queries]."""
    size = query_marks.shape[2]
    queries = (query_marks[0, mark][None] for mark in (SEEN_SEGMENT, SEEN_PREFIX, NEAREST))
    after = _places(size, 0) - _places(size, 1)
    return _rule(*queries, _wide(seen[0], size), _wide(seen[1], size), after <= later * size)


def _rule(segment, prefix, nearest, key_segment, key_position, not_after):
    visible = ((key_segment == segment) | (key_segment == prefix)) & (key_position >= nearest) & not_after
    return jnp.where(visible, 0.0, NONE)


def _scores(left: Array, right: Array, softcap: float) -> Array:
    scores = _product(left, right, 1, 1)
    return softcap * jnp.tanh(scores / softcap) if softcap else scores


def _hide(scores: Array, hidden: Array | None) -> Array:
    return scores if hidden is None else scores + hidden


def _uncapped(gradient: Array, scores: Array, softcap: float) -> Array:
    return gradient * (1 - (scores / softcap) ** 2) if softcap else gradient


def _product(left: Array, right: Array, left_axis: int, right_axis: int) -> Array:
    # bfloat16 has one precision; for float32 it is what jax.default_matmul_precision says, as everywhere.
    precision = jax.lax.Precision.DEFAULT if left.dtype == jnp.bfloat16 else None
    dims = ((left_axis,), (right_axis,)), ((), ())
    return jax.lax.dot_general(left, right, dims, precision=precision, preferred_element_type=jnp.float32)


def _column(row: Array) -> Array:
    """[B] -> [B, LANES], the same in every lane."""
    return jnp.broadcast_to(row[None], (LANES, len(row))).T


def _row(column: Array) -> Array:
    """[B, LANES] -> [B]."""
    return column.T[0]


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
    rows = jnp.stack([segments, positions, seen, prefix, nearest, *[nothing] * 3])
    fill = jnp.array([0, 0, -1, -1, 0, 0, 0, 0], jnp.int32)[:, None, None]
    rows = jnp.concatenate([rows, jnp.broadcast_to(fill, (8, len(segments), -segments.shape[1] % block))], 2)
    return rows.reshape(1, 8, -1)


def _pairs(positions: Array, segments: Array, prefixes: Array, window: Array, block: int) -> tuple[Pairs, Pairs]:
    """The pairs of blocks that meet, for every block of queries and for every block of keys."""
    meets, whole = blocks.seen(positions, segments, prefixes, window, block, block)
    meets |= jnp.eye(meets.shape[-1], dtype=bool)  # every block is written, also one that sees nothing
    return _listed(meets, whole), _listed(meets.swapaxes(1, 2), whole.swapaxes(1, 2))


def _listed(meets: Array, whole: Array) -> Pairs:
    """The pairs of bool[R, n, n] in order."""
    rows, n, _ = meets.shape
    running = jnp.cumsum(meets.ravel(), dtype=jnp.int32)
    number = jnp.arange(1, rows * n * (n + 1) // 2 + 2, dtype=jnp.int32)  # as many pairs as a causal mask leaves, and one more
    # The cell of every number is found by comparing all: on a TPU a scatter, a sort or a gather of scalars would cost more.
    cells = 2 * jnp.arange(meets.size, dtype=jnp.int32) + whole.ravel() + 1
    cell = jnp.where((running == number[:, None]) & meets.ravel(), cells, 0).sum(1) - 1
    outer, inner = cell // (2 * n), cell // 2 % n
    return Pairs(outer, jnp.maximum(outer, 0) // n * n + inner, cell % 2, running[-1])

"""The attention rule as a flash kernel for TPUs (Pallas, Mosaic): values, and gradients by two more kernels.

Blocks of queries meet only the blocks of keys in which something is visible: the pairs of blocks of all rows form one list, of which
every step of the grid takes one (scalar prefetch), so that nothing is fetched or computed for what no query sees. The rule is compared in
the kernel, from ids and positions. Soft-max and sums are float32 (arXiv 2307.08691, algorithms 1 and 2). The heads that share a key head
are met together: their keys are fetched, and the rule is compared, once.

Blocks of 256 were chosen by the compiler's schedule for v5p (bfloat16, four query heads to a key head, heads of 128). In rows of 4,096 and
8,192 tokens packed with pairs of HH-RLHF, 0.27 and 0.14 of the causal blocks remain (0.42 and 0.23 with 512). Per row of 4,096 and key
head the three kernels take 264 thousand instruction bundles, 331 thousand with blocks of 512 and 326 thousand with 128; in a row that is
one segment, 512 would be 1.2 times as fast. Of the blocks that remain one in a hundred is seen whole, so there is no second form of the
kernels without the mask.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from jaxalign.models.attention import blocks
from jaxalign.models.attention import tpu_kernels as kernels
from jaxalign.models.attention.tpu_kernels import LANES, ROWS

Array = jax.Array

BLOCK = 256  # queries, and keys, of a block
STACK_BYTES, MOST_STACKED = 2**20, 8  # of the queries of a block that are met together; what belongs to them fits into 16 MiB of VMEM
WIDEST = 256  # elements of a head with which the kernels are known to fit


class Pairs(NamedTuple):
    """The pairs of blocks that meet, in the order in which they do. Blocks are numbered through all rows."""

    outer: Array  # int32[P + 1]; the block that adds up what it meets, in ascending order; -1 beyond the last pair
    inner: Array  # int32[P + 1]; the block that it meets
    ahead: Array  # int32[P + 1]; tokens of the row from the beginning of the block of keys to that of the block of queries
    count: Array  # int32[]


def attend_locally(
    q: Array,
    k: Array,
    v: Array,
    positions: Array,
    segments: Array,
    prefixes: Array,
    window: Array,
    first: Array | int = 0,
    *,
    softcap: float,
    interpret: bool = False,
) -> Array:
    """Attention of scaled queries, see `rule`. Beside its arguments only the result and a number per query and head are saved.

    With `interpret` it runs on any device, slowly.
    """
    return _attention(q, k, v, positions, segments, prefixes, window, first, softcap, interpret)


def refusal(head_dim: int, device_kind: str | None) -> str | None:
    """Why the kernels cannot attend with heads of head_dim elements on such devices; None: they can."""
    return f"heads of {head_dim} elements are wider than {WIDEST}" if head_dim > WIDEST else None


@partial(jax.custom_vjp, nondiff_argnums=(8, 9))
def _attention(q, k, v, positions, segments, prefixes, window, first, softcap, interpret):
    return _forward(q, k, v, positions, segments, prefixes, window, first, softcap, interpret)[0]


def _forward(q, k, v, positions, segments, prefixes, window, first, softcap, interpret):
    ids, block, stacks = (positions, segments, prefixes, window, blocks.Part(first, q.shape[1])), _block(q), _stacks(q, k)
    pairs, _ = _pairs(*ids, block)
    (query_marks, key_marks), queries = _marks(*ids, block), _by_head(q, block, stacks)
    keys, values = (_by_head(x, block, k.shape[2])[:, 0] for x in (k, v))
    heads, tokens, size = queries.shape[1:]
    column = (heads, block, LANES), jnp.float32
    out, normalizer = _call(
        partial(kernels.forward_kernel, softcap=softcap),
        pairs,
        [(queries, 2, "outer"), (keys, 1, "inner"), (values, 1, "inner"), (query_marks, 2, "outer"), (key_marks, 2, "inner")],
        [(queries.shape, q.dtype, 2), ((stacks, ROWS, tokens), jnp.float32, 2)],
        [((3, block, LANES), jnp.int32), column, column, ((heads, block, size), jnp.float32)],
        block,
        interpret,
    )
    out = checkpoint_name(_by_row(out, *q.shape[:2]), blocks.ATTENDED)
    return out, (q, k, v, *ids, out, checkpoint_name(normalizer[:, :heads], blocks.ATTENDED))


def _backward(softcap, interpret, saved, gradient):
    q, k, v, *ids, out, normalizer = saved
    block, stacks = _block(q), len(normalizer)
    by_query, by_key = _pairs(*ids, block)
    query_marks, key_marks = _marks(*ids, block)
    # d scores = weights (d weights - sum_t weights d weights), and that sum is out . gradient
    mean = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    queries, gradients, mean = (_by_head(x, block, stacks) for x in (q, gradient, mean))
    numbers = jnp.concatenate([normalizer, mean[..., 0]], 1)
    numbers = jnp.pad(numbers, [(0, 0), (0, -numbers.shape[1] % ROWS), (0, 0)])
    keys, values = (_by_head(x, block, k.shape[2])[:, 0] for x in (k, v))
    heads, size, tokens = queries.shape[1], queries.shape[3], keys.shape[1]
    cells = (block, size), jnp.float32

    def arguments(of_queries, of_keys):
        by_queries = [(x, 2, of_queries) for x in (queries, gradients, numbers)]
        return [*by_queries, (keys, 1, of_keys), (values, 1, of_keys), (query_marks, 2, of_queries), (key_marks, 2, of_keys)]

    (dq,) = _call(
        partial(kernels.query_kernel, softcap=softcap),
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
        partial(kernels.key_kernel, softcap=softcap),
        by_key,
        arguments("inner", "outer"),
        [((stacks, tokens, size), dtype, 1)] * 2,
        [((2, block, LANES), jnp.int32), cells, cells],
        block,
        interpret,
    )
    dk, dv = (_by_row(x.reshape(k.shape[2], -1, tokens, size).sum(1, keepdims=True), *k.shape[:2]).astype(k.dtype) for x in (dk, dv))
    return _by_row(dq, *q.shape[:2]), dk, dv, *[None] * 5


_attention.defvjp(_forward, _backward)


def _call(kernel: Callable, pairs: Pairs, inputs: Sequence, outputs: Sequence, scratch: Sequence, block: int, interpret: bool) -> list:
    """The outputs of a kernel that runs once for each head and pair.

    inputs are (array, axis of tokens, "outer" or "inner"); outputs are (shape, dtype, axis of tokens) and belong to the outer block. The
    heads are the first axis of the outputs; several share one entry of an input that has fewer.
    """
    heads = outputs[0][0][0]

    def blocked(shape, axis, side):
        def place(head, step, outer, inner, ahead):
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
        name=kernel.func.__name__,
    )
    return call(pairs.outer, pairs.inner, pairs.ahead, *(array for array, _, _ in inputs))


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


def _marks(
    positions: Array, segments: Array, prefixes: Array, window: Array, part: blocks.Part, block: int
) -> tuple[Array, Array]:
    """What decides who sees whom, of the queries and of the keys: int32[1, 8, R * T], T being the queries' or the keys'.

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

    def filled(rows):
        return jnp.concatenate([rows, jnp.broadcast_to(fill, (*rows.shape[:2], -rows.shape[2] % block))], 2).reshape(1, ROWS, -1)

    return filled(part.of(rows)), filled(rows)


def _pairs(
    positions: Array, segments: Array, prefixes: Array, window: Array, part: blocks.Part, block: int
) -> tuple[Pairs, Pairs]:
    """The pairs of blocks that meet, for every block of queries and for every block of keys."""
    meets, _ = blocks.seen(positions, segments, prefixes, window, block, block, part)
    by_query, by_key = _listed(meets), _listed(meets.swapaxes(1, 2))
    queries, keys = meets.shape[1:]

    def ahead(query, key):
        return part.first + (query % queries - key % keys) * block

    return by_query._replace(ahead=ahead(by_query.outer, by_query.inner)), by_key._replace(ahead=ahead(by_key.inner, by_key.outer))


def _listed(meets: Array) -> Pairs:
    """The pairs of bool[R, n, m] in order, without `ahead`. Every block is written: one that meets none meets the first."""
    rows, n, m = meets.shape
    meets |= ~meets.any(2, keepdims=True) & (jnp.arange(m) == 0)
    running = jnp.cumsum(meets.ravel(), dtype=jnp.int32)
    most = n * (n + 1) // 2 if n == m else n * m  # per row, those that a causal mask leaves
    number = jnp.arange(1, rows * most + 2, dtype=jnp.int32)
    # Before the cell of a number stand all whose running count is below it: on a TPU a scatter, a sort or a search would cost more.
    cell = (running < number[:, None]).sum(1, dtype=jnp.int32)
    outer = cell // m
    return Pairs(jnp.where(number <= running[-1], outer, -1), outer // n * m + cell % m, running[:0], running[-1])

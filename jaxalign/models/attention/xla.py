"""The attention rule in plain XLA operations: the default on CPU, and the oracle for every kernel.

Blocks of queries meet blocks of keys, and the soft-max is carried from block to block; the backward pass computes the scores again
from the log-sum-exp of every query (arXiv 2205.14135, algorithm 1; 2307.08691, algorithm 2). On CPU a block of queries meets only the
blocks of keys that contain something it can see: a token costs what its group costs, however long the row is. On other devices loops of
small products are slow, so there all rows go together and every block of queries meets all keys.
"""

from collections.abc import Callable
from functools import partial

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from jaxalign.models.attention import blocks

Array = jax.Array

BLOCK = 64  # queries, and on CPU keys, of a block: its scores stay in the cache. 32 and 128 are up to 1.3x and 2x slower there
FEW_BLOCKS = 3  # up to so many blocks there is little to leave out, and a program without the inner loop compiles a sixth faster


def refusal(head_dim: int, device_kind: str | None) -> None:
    """None: it attends with heads of any size on any device."""


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
) -> Array:
    """Attention of scaled queries, see `rule`. Soft-max and sums are float32; beside its arguments only the result is saved."""
    return _attention(q, k, v, positions, segments, prefixes, window, first, softcap)


@partial(jax.custom_vjp, nondiff_argnums=(8,))
def _attention(q, k, v, positions, segments, prefixes, window, first, softcap):
    return _forward(q, k, v, positions, segments, prefixes, window, first, softcap)[0]


def _forward(q, k, v, positions, segments, prefixes, window, first, softcap):
    marks = positions, segments, prefixes
    out, normalizer = _over_rows(partial(_row_forward, window=window, first=first, softcap=softcap), q, k, v, *marks)
    out, normalizer = checkpoint_name(out, blocks.ATTENDED), checkpoint_name(normalizer, blocks.ATTENDED)
    return out, (q, k, v, *marks, out, normalizer, window, first)


def _backward(softcap, saved, gradient):
    *arrays, window, first = saved
    q, k, v = _over_rows(partial(_row_backward, window=window, first=first, softcap=softcap), *arrays, gradient)
    return q, k, v, *[None] * 5


_attention.defvjp(_forward, _backward)


def _over_rows(function: Callable, q: Array, k: Array, *arrays: Array):
    """function(*row, key_block=) of every row of the arrays [R, ...]."""
    length, arrays = k.shape[1], (q, k, *arrays)

    def together(*arrays):
        return jax.vmap(partial(function, key_block=length))(*arrays)

    def one_by_one(*arrays):
        return jax.lax.map(lambda row: function(*row, key_block=BLOCK), arrays)

    if length <= FEW_BLOCKS * BLOCK:
        return together(*arrays)
    return jax.lax.platform_dependent(*arrays, cpu=one_by_one, default=together)


# What follows knows one row: q [S, H, E], k and v [T, KV, E]. Of a block, queries are [KV, H / KV * block, E] and keys [KV, block, E].


def _row_forward(q, k, v, positions, segments, prefixes, *, window, first, key_block, softcap):
    """(attention [S, H, E], log-sum-exp of the scores of every query float32[blocks, KV, H / KV * block])."""
    length, heads, _ = q.shape
    block = min(length, BLOCK)
    query_marks, key_marks, visible = _marks(positions, segments, prefixes, window, blocks.Part(first, length), block, key_block)
    keys, values = _split_keys(k, key_block), _split_keys(v, key_block)

    def one_block(_, inputs):
        queries, marks, (places, count) = inputs

        def meet(j, carry):
            largest, total, out = carry
            seen = _seen(marks, [x[j] for x in key_marks], window, queries.shape[1])
            scores = jnp.where(seen, _scores(queries, keys[j], softcap), -1e30)
            new = jnp.maximum(largest, scores.max(-1))
            powers = jnp.where(seen, jnp.exp(scores - new[..., None]), 0.0)
            kept = jnp.exp(largest - new)
            return new, total * kept + powers.sum(-1), out * kept[..., None] + _product("gqt,gte->gqe", powers.astype(v.dtype), values[j])

        none = jnp.zeros(queries.shape[:2], jnp.float32)
        largest, total, out = _over_blocks(meet, places, count, (none - 1e30, none, jnp.zeros(queries.shape, jnp.float32)))
        total = jnp.where(total > 0, total, 1.0)  # padding sees nothing
        return None, ((out / total[..., None]).astype(q.dtype), largest + jnp.log(total))

    _, (out, normalizer) = jax.lax.scan(one_block, None, (_split_queries(q, block, k.shape[1]), query_marks, visible))
    return _merge_queries(out, length, heads), normalizer


def _row_backward(q, k, v, positions, segments, prefixes, out, normalizer, gradient, *, window, first, key_block, softcap):
    """Gradients of q, k and v from that of the attention."""
    length, heads, _ = q.shape
    block = min(length, BLOCK)
    query_marks, key_marks, visible = _marks(positions, segments, prefixes, window, blocks.Part(first, length), block, key_block)
    keys, values = _split_keys(k, key_block), _split_keys(v, key_block)
    queries, gradient, out = (_split_queries(x, block, k.shape[1]) for x in (q, gradient, out))
    # d scores = weights (d weights - sum_t weights d weights), and that sum is out . gradient
    mean = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)

    def one_block(carry, inputs):
        queries, gradient, mean, normalizer, marks, (places, count) = inputs

        def meet(j, carry):
            dq, dk, dv = carry
            seen = _seen(marks, [x[j] for x in key_marks], window, queries.shape[1])
            scores = _scores(queries, keys[j], softcap)
            weights = jnp.where(seen, jnp.exp(scores - normalizer[..., None]), 0.0)
            ds = weights * (_product("gqe,gte->gqt", gradient, values[j]) - mean[..., None])
            ds = (ds * (1 - (scores / softcap) ** 2) if softcap else ds).astype(q.dtype)
            dk = dk.at[j].add(_product("gqt,gqe->gte", ds, queries))
            dv = dv.at[j].add(_product("gqt,gqe->gte", weights.astype(v.dtype), gradient))
            return dq + _product("gqt,gte->gqe", ds, keys[j]), dk, dv

        dq, *carry = _over_blocks(meet, places, count, (jnp.zeros(queries.shape, jnp.float32), *carry))
        return tuple(carry), dq.astype(q.dtype)

    zeros = jnp.zeros(keys.shape, jnp.float32), jnp.zeros(values.shape, jnp.float32)
    (dk, dv), dq = jax.lax.scan(one_block, zeros, (queries, gradient, mean, normalizer, query_marks, visible))
    return _merge_queries(dq, length, heads), _merge_keys(dk, len(k)).astype(k.dtype), _merge_keys(dv, len(v)).astype(v.dtype)


def _over_blocks(meet: Callable, places: Array, count: Array, start):
    """meet(block of keys, carry) over the first `count` places."""
    if len(places) == 1:
        return meet(0, start)
    return jax.lax.fori_loop(0, count, lambda i, carry: meet(places[i], carry), start)


def _product(subscripts: str, *operands: Array) -> Array:
    return jnp.einsum(subscripts, *operands, preferred_element_type=jnp.float32)


def _scores(queries: Array, keys: Array, softcap: float) -> Array:
    scores = _product("gqe,gte->gqt", queries, keys)
    return softcap * jnp.tanh(scores / softcap) if softcap else scores


def _marks(positions: Array, segments: Array, prefixes: Array, window: Array, part: blocks.Part, block: int, key_block: int):
    """What decides who sees whom, by block: (of queries, of keys, (blocks of keys that each block of queries meets, how many of them))."""
    index = jnp.arange(len(segments))
    queries = [blocks.split(part.of(x), block) for x in (index, positions, segments, prefixes)]
    keys = [blocks.split(x, key_block) for x in (index, positions, segments)]
    if len(keys[0]) == 1:
        return queries, keys, (jnp.zeros((len(queries[0]), 1), jnp.int32), jnp.ones(len(queries[0]), jnp.int32))
    meets, _ = blocks.seen(positions, segments, prefixes, window, block, key_block, part)
    return queries, keys, (jnp.argsort(~meets, axis=1, stable=True), meets.sum(1))


def _seen(query_marks, key_marks, window: Array, queries: int) -> Array:
    """The rule, for the queries and keys of two blocks: bool[queries, key block]; the block's rule repeats for every head of a group."""
    (index, position, segment, prefix), (key_index, key_position, key_segment) = ([x[:, None] for x in query_marks], key_marks)
    related = (key_segment == segment) | ((prefix != 0) & (key_segment == prefix))
    near = (window == 0) | (position - key_position < window)
    seen = (key_index <= index) & related & near & (segment != 0)
    return jnp.broadcast_to(seen, (queries // len(seen), *seen.shape)).reshape(queries, -1)


def _split(x: Array, size: int) -> Array:
    """[T, ...] -> [blocks, size, ...], filled up with padding."""
    count = -(-len(x) // size)
    return jnp.pad(x, [(0, count * size - len(x))] + [(0, 0)] * (x.ndim - 1)).reshape(count, size, *x.shape[1:])


def _split_queries(x: Array, block: int, kv_heads: int) -> Array:
    """[T, H, E] -> [blocks, KV, H / KV * block, E]."""
    _, heads, size = x.shape
    x = _split(x, block).reshape(-1, block, kv_heads, heads // kv_heads, size)
    return x.transpose(0, 2, 3, 1, 4).reshape(-1, kv_heads, heads // kv_heads * block, size)


def _merge_queries(x: Array, length: int, heads: int) -> Array:
    """[blocks, KV, H / KV * block, E] -> [T, H, E]."""
    _, kv_heads, queries, size = x.shape
    group = heads // kv_heads
    x = x.reshape(-1, kv_heads, group, queries // group, size).transpose(0, 3, 1, 2, 4)
    return x.reshape(-1, heads, size)[:length]


def _split_keys(x: Array, size: int) -> Array:
    """[T, KV, E] -> [blocks, KV, size, E]."""
    return _split(x, size).swapaxes(1, 2)


def _merge_keys(x: Array, length: int) -> Array:
    """[blocks, KV, size, E] -> [T, KV, E]."""
    _, kv_heads, _, width = x.shape
    return x.swapaxes(1, 2).reshape(-1, kv_heads, width)[:length]

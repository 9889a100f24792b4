"""The attention rule in plain XLA operations: the default on CPU, and the oracle for every kernel."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

Array = jax.Array


def attend_locally(
    q: Array, k: Array, v: Array, positions: Array, segments: Array, prefixes: Array, window: Array, *, softcap: float
) -> Array:
    """Dense scores, one block of queries at a time, recomputed in the backward pass. Softmax in float32."""
    rows, length, heads, size = q.shape
    kv_heads = k.shape[2]
    block = min(length, QUERY_BLOCK)
    blocks = -(-length // block)

    def split(x: Array) -> Array:  # [R, T, ...] -> [blocks, R, block, ...], filled up with padding
        x = jnp.pad(x, [(0, 0), (0, blocks * block - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(rows, blocks, block, *x.shape[2:]), 1, 0)

    grouped = split(q.reshape(rows, length, kv_heads, heads // kv_heads, size))
    starts = jnp.arange(blocks) * block
    queries = (grouped, starts, split(positions), split(segments), split(prefixes))

    def one_block(own):
        return _recomputed(functools.partial(_one_block, softcap=softcap))(own[0], k, v, *own[1:], positions, segments, window)

    if blocks == 1:
        out = one_block([x[0] for x in queries])[None]
    else:
        _, out = jax.lax.scan(lambda _, own: (None, one_block(own)), None, queries)
    return jnp.moveaxis(out, 0, 1).reshape(rows, blocks * block, heads, size)[:, :length]


def _one_block(
    q: Array, k: Array, v: Array, start: Array, here: Array, own: Array, prefix: Array,
    positions: Array, segments: Array, window: Array, *, softcap: float,
) -> Array:  # fmt: skip
    """Attention of the queries [R, block, KV, H / KV, E] from index `start` on; here, own, prefix are their positions and segments."""
    scores = jnp.einsum("rqkge,rtke->rkgqt", q, k, preferred_element_type=jnp.float32)
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    causal = jnp.arange(k.shape[1]) <= start + jnp.arange(q.shape[1])[:, None]
    theirs = segments[:, None, :]
    seen = (theirs == own[:, :, None]) | ((prefix[:, :, None] != 0) & (theirs == prefix[:, :, None]))
    near = (window == 0) | (here[:, :, None] - positions[:, None, :] < window)
    seen = (causal & seen & near & (own[:, :, None] != 0))[:, None, None]
    scores = jnp.where(seen, scores, -1e30)
    powers = jnp.where(seen, jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))), 0)
    total = powers.sum(-1, keepdims=True)
    weights = powers / jnp.where(total > 0, total, 1)  # padding sees nothing: weights 0 and a finite gradient
    return jnp.einsum("rkgqt,rtke->rqkge", weights.astype(v.dtype), v)


def _recomputed(function: Callable[..., Array]) -> Callable[..., Array]:
    """function(q, k, v, *integers) whose backward pass keeps only the arguments.

    Not jax.checkpoint: inside the checkpoint of a layer the layer's policy decides, and one that keeps everything keeps [R, H, T, T].
    """

    def forward(*arguments):
        return function(*arguments), arguments

    def backward(arguments, gradient):
        _, pull = jax.vjp(lambda *qkv: function(*qkv, *arguments[3:]), *arguments[:3])
        return *pull(gradient), *(None for _ in arguments[3:])

    recomputed = jax.custom_vjp(function)
    recomputed.defvjp(forward, backward)
    return recomputed


QUERY_BLOCK = 64  # small enough that a block of scores stays in a CPU cache: 2x faster there than 512

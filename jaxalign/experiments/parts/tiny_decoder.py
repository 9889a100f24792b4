"""A decoder for rows of one length and a handful of tokens, made to compile and run quickly on a CPU, and its samples.

Learned positions, RMS norms before attention and MLP, a GELU MLP four times as wide, no biases, a head of its own.
Params are a nested dict.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign.types import Array, Batch, Outputs

EPS = 1e-6


class Size(NamedTuple):
    """Numbers of elements."""

    vocabulary: int
    length: int  # tokens of a row
    width: int
    layers: int = 2
    heads: int = 4


def init(size: Size, key: Array) -> dict:
    """Random float32 parameters: normal, matrices with the inverse square root of what they read as standard deviation."""
    d = size.width
    shapes = {"embed": (size.vocabulary, d), "places": (size.length, d), "head": (size.vocabulary, d)}
    matrices = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
    keys = iter(jax.random.split(key, len(shapes) + size.layers * len(matrices)))
    params: dict = {name: jax.random.normal(next(keys), shape) * d**-0.5 for name, shape in shapes.items()}
    for i in range(size.layers):
        layer = {name: jax.random.normal(next(keys), shape) * shape[0] ** -0.5 for name, shape in matrices.items()}
        params[f"layer{i}"] = layer | {"attention_norm": jnp.ones(d), "mlp_norm": jnp.ones(d)}
    return params | {"norm": jnp.ones(d)}


def forward(params: dict, batch: Batch, step: Array, *, size: Size) -> Outputs:
    """What an objective reads, of rows that are one segment each and `size.length` tokens long."""
    hidden = states(params, batch.tokens, size)[0]
    logps = jnp.einsum("rtv,rtv->rt", log_probs(params, hidden[:, :-1]), jax.nn.one_hot(batch.tokens[:, 1:], size.vocabulary))
    logps = jnp.where(batch.slots >= 0, jnp.pad(logps, ((0, 0), (1, 0))), 0.0)
    return Outputs(logps, hidden, params["head"], step=step, vocab_size=size.vocabulary)


def log_probs(params: dict, hidden: Array) -> Array:
    """The distributions that follow hidden states [..., D]: log-probs float32[..., V]."""
    return jax.nn.log_softmax(hidden @ params["head"].T)


def states(params: dict, tokens: Array, size: Size) -> tuple[Array, list[tuple[Array, Array]]]:
    """(hidden states [R, T, D] after the last norm, keys and values [R, T, H, E] of every layer) of the first T tokens of rows."""
    count = tokens.shape[1]
    x = jax.nn.one_hot(tokens, size.vocabulary) @ params["embed"] + params["places"][:count]
    seen, memory = jnp.tril(jnp.ones((count, count), bool)), []
    for i in range(size.layers):
        layer = params[f"layer{i}"]
        q, k, v = _qkv(layer, x, size)
        scores = jnp.where(seen, jnp.einsum("rihe,rjhe->rhij", q, k), -jnp.inf)
        x = _after(layer, x, jnp.einsum("rhij,rjhe->rihe", jax.nn.softmax(scores), v))
        memory.append((k, v))
    return _norm(x, params["norm"]), memory


def draw(params: dict, prompts: Array, key: Array, *, size: Size) -> tuple[Array, Array]:
    """(the rows that continue prompts int32[n, P], int32[n, size.length]; the log-prob of each new token, float32[n, length - P])."""
    count, start = prompts.shape
    hidden, memory = states(params, prompts, size)
    room = ((0, 0), (0, size.length - start), (0, 0), (0, 0))
    memory = [tuple(jnp.pad(x, room) for x in pair) for pair in memory]

    def step(carry, at):
        state, memory = carry
        logps = log_probs(params, state)
        token = jax.random.categorical(jax.random.fold_in(key, at), logps)
        one_hot = jax.nn.one_hot(token, size.vocabulary)
        state, memory = _next(params, one_hot, at, memory, size)
        return (state, memory), (token, (one_hot * logps).sum(-1))

    _, (tokens, logps) = jax.lax.scan(step, (hidden[:, -1], memory), jnp.arange(start, size.length))
    return jnp.concatenate([prompts, tokens.T.astype(prompts.dtype)], axis=1), logps.T


def _next(params, one_hot, at, memory, size):
    """(hidden states [n, D] of one more token at place `at`, the memory with its keys and values)."""
    x, kept = one_hot @ params["embed"] + params["places"][at], []
    seen = jnp.arange(size.length) <= at
    for i, (keys, values) in enumerate(memory):
        layer = params[f"layer{i}"]
        q, k, v = _qkv(layer, x[:, None], size)
        keys, values = (jax.lax.dynamic_update_slice_in_dim(old, new, at, axis=1) for old, new in ((keys, k), (values, v)))
        # products and sums: a product of matrices for every row and head would be slower
        scores = jnp.where(seen[:, None], (q * keys).sum(-1), -jnp.inf)
        x = _after(layer, x, (jax.nn.softmax(scores, axis=1)[..., None] * values).sum(1))
        kept.append((keys, values))
    return _norm(x, params["norm"]), kept


def _qkv(layer, x, size):
    """Scaled queries, keys and values [..., H, E] of x [..., D]."""
    each = size.width // size.heads
    q, k, v = jnp.split(_norm(x, layer["attention_norm"]) @ layer["qkv"], 3, axis=-1)
    return tuple(y.reshape(*x.shape[:-1], size.heads, each) for y in (q * each**-0.5, k, v))


def _after(layer, x, attended):
    """x [..., D] after attention [..., H, E] and MLP of a layer."""
    x = x + attended.reshape(x.shape) @ layer["out"]
    return x + jax.nn.gelu(_norm(x, layer["mlp_norm"]) @ layer["up"]) @ layer["down"]


def _norm(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPS) * scale

"""The output head over the scored tokens, a chunk at a time, its vocabulary split over devices: what `logps` and `distributions` share.

Unscored positions (prompts, padding) are compacted away before the head matmul; the head is gathered once, outside the chunk loop. Under
tensor parallelism every device keeps its own slice of the vocabulary, and the slices meet once, after the loop, so the loop holds no
collective and each device runs just as many chunks as its own tokens need. The state of place t predicts token t + 1: `by_state` moves
what is known of a token to that place, `by_token` moves the results back. All else here runs inside shard_map: R and T are this device's
rows and tokens, V its slice of the vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import collectives, sharding

CHUNK_TOKENS = 1024  # [chunk, V] is a fraction of a GiB; on an H200 chunks of 4,096 are no faster, and of 8,192 slower
CPU_LOGITS = 32 * 2**20  # bytes of a chunk's logits on CPU, where those that leave the last cache make a forward pass a third slower
REST_TOKENS = 128  # of a chunk of what is left: at most 127 tokens go through the head in vain
SCOPE = "lm_head_chunks"  # name of the loops over chunks, in profiles and for `planning.program`


class Options(NamedTuple):
    """What is known when the operator is traced."""

    vocab_size: int  # real tokens; further rows of the head are padding and get logit -inf
    softcap: float | None  # logits become softcap * tanh(logits / softcap) (Gemma 2)
    chunk: int  # most tokens that go through the head at a time


def by_state(x: jax.Array) -> jax.Array:
    """What is known of tokens [R, T], whole by row, at the places of the states that predict them, split over tokens; 0 at the last."""
    return sharding.shard(jnp.pad(x[:, 1:], ((0, 0), (0, 1))), "rows", "tokens")


def by_token(x: jax.Array) -> jax.Array:
    """What states [R, T] give, split over tokens, at the places of the tokens that they predict, whole by row; 0 at the first."""
    return jnp.pad(sharding.shard(x, "rows", None)[:, :-1], ((0, 0), (1, 0)))


def chunk_tokens(options: Options) -> int:
    """Tokens of a whole chunk on the devices of the mesh in scope: on CPU, as many as keep their logits in the cache."""
    if not _on_cpu():
        return options.chunk
    cached = CPU_LOGITS // (4 * options.vocab_size) // REST_TOKENS * REST_TOKENS
    return min(options.chunk, max(cached, REST_TOKENS))


def over_chunks(scored: jax.Array, options: Options, body: Callable, start):
    """body(index, carry) over all chunks: as many whole ones as there are, then smaller ones for what is left.

    index, int32[chunk_tokens] or int32[REST_TOKENS], are flat places of scored tokens; the last are filled up with others, and with R * T.
    """
    flat = scored.reshape(-1)
    whole = chunk_tokens(options)
    rest = min(REST_TOKENS, whole, flat.size)
    order = jnp.pad(jnp.argsort(~flat, stable=True), (0, rest), constant_values=flat.size)

    def over(size, first, count, carry):
        with jax.named_scope(SCOPE):
            return jax.lax.fori_loop(0, count, lambda i, c: body(jax.lax.dynamic_slice(order, (first + i * size,), (size,)), c), carry)

    done = 0
    if rest < whole <= flat.size:  # else no chunk is ever whole, and a program with one loop compiles faster
        done = flat.sum() // whole * whole
        start = over(whole, 0, done // whole, start)
    return over(rest, done, (flat.sum() - done + rest - 1) // rest, start)


def gather_head(unembed: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The head in the compute dtype with its width whole: [V, D]."""
    return collectives.gather_along(unembed.astype(dtype).T, sharding.mesh_axes("embed")).T


def states(hidden: jax.Array, index: jax.Array) -> jax.Array:
    """The hidden states [chunk, D] at `index`; hidden is [R, T, D]. Beyond the end it repeats the last."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    return flat[jnp.clip(index, 0, len(flat) - 1)]


def at(values: jax.Array, index: jax.Array) -> jax.Array:
    """The entries [chunk] of [R, T] at `index`; beyond the end it repeats the last."""
    return values.reshape(-1)[jnp.clip(index, 0, values.size - 1)]


def logits(x: jax.Array, head: jax.Array, options: Options) -> tuple[jax.Array, jax.Array]:
    """(logits float32[chunk, V], columns int32[V]); columns count over the whole vocabulary; padded ones get -inf."""
    values = jnp.einsum("cd,vd->cv", x, head, preferred_element_type=jnp.float32)
    columns = jax.lax.axis_index("tensor") * head.shape[0] + jnp.arange(head.shape[0])
    return capped(values, columns, options, padded_vocab=jax.lax.axis_size("tensor") * head.shape[0]), columns


def capped(values: jax.Array, columns: jax.Array, options: Options, *, padded_vocab: int) -> jax.Array:
    """Logits [chunk, V] from the product of hidden states and head: capped, and -inf in the columns of padding, where a head has any."""
    if options.softcap is not None:
        values = options.softcap * jnp.tanh(values / options.softcap)
    return values if padded_vocab == options.vocab_size else jnp.where(columns < options.vocab_size, values, -jnp.inf)


def picked(values: jax.Array, columns: jax.Array, tokens: jax.Array) -> jax.Array:
    """The entries [chunk] of [chunk, V] in the columns of tokens int32[chunk], 0 where this slice of the vocabulary lacks them."""
    if _on_cpu():  # where the sum below would write and read all of [chunk, V] once more
        place = tokens - columns[0]
        found = jnp.take_along_axis(values, jnp.clip(place, 0, columns.size - 1)[:, None], axis=1)[:, 0]
        return jnp.where((place >= 0) & (place < columns.size), found, 0.0)
    return jnp.sum(jnp.where(columns == tokens[:, None], values, 0.0), axis=1)


def sum_over_shards(log_sum_exp: jax.Array) -> jax.Array:
    """log of the sum over the slices of the vocabulary, from the log-sum-exp of each."""
    largest = jax.lax.pmax(log_sum_exp, "tensor")
    return largest + jnp.log(jax.lax.psum(jnp.exp(log_sum_exp - largest), "tensor"))


def backward(hidden: jax.Array, unembed: jax.Array, scored: jax.Array, options: Options, logit_gradient: Callable):
    """Gradients (like hidden, float32 like unembed), from that of the logits.

    Args:
      hidden, unembed: [R, T, D] and this device's part [V, D / fsdp].
      logit_gradient: (index, logits, columns) -> float32[chunk, V]; the logits are those after the softcap.
    """
    head = gather_head(unembed, hidden.dtype)
    size = scored.size

    def body(index, carry):
        hidden_gradient, head_gradient = carry
        x = states(hidden, index)
        values, columns = logits(x, head, options)
        inside = (index < size) & at(scored, index)  # the last chunk is filled up with tokens that are not scored
        d = jnp.where(inside[:, None], logit_gradient(index, values, columns), 0.0)
        if options.softcap is not None:
            d = d * jnp.where(columns < options.vocab_size, 1 - (values / options.softcap) ** 2, 0.0)
        d = d.astype(hidden.dtype)
        dx = jnp.einsum("cv,vd->cd", d, head, preferred_element_type=jnp.float32)
        hidden_gradient = hidden_gradient.at[index].add(dx.astype(hidden_gradient.dtype), mode="drop")
        return hidden_gradient, head_gradient + _summed(x, d)

    # Each row of hidden is written by one chunk only; slices of the vocabulary are summed in float32.
    split = jax.lax.axis_size("tensor") > 1
    flat = (size, hidden.shape[-1])
    # That of the head has its width in front, along which it is scattered.
    start = jnp.zeros(flat, jnp.float32 if split else hidden.dtype), jnp.zeros(head.shape[::-1], jnp.float32)
    hidden_gradient, head_gradient = over_chunks(scored, options, body, start)
    hidden_gradient = jax.lax.psum(hidden_gradient, "tensor").astype(hidden.dtype).reshape(hidden.shape)
    head_gradient = collectives.scatter_along(head_gradient, sharding.mesh_axes("embed")).T
    return hidden_gradient, jax.lax.psum(head_gradient, "data")


def _summed(x: jax.Array, y: jax.Array) -> jax.Array:
    """x [chunk, D] and y [chunk, V] -> float32[D, V], summed over the chunk."""
    if not _on_cpu():
        return jnp.einsum("cd,cv->dv", x, y, preferred_element_type=jnp.float32)
    # XLA's fast products for CPUs sum over the last dimension of the left factor; other products take twice as long.
    return jnp.einsum("dc,cv->dv", jax.lax.optimization_barrier(x.T), y, preferred_element_type=jnp.float32)


def _on_cpu() -> bool:
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is not None and device.platform == "cpu"

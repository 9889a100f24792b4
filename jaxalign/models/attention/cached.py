"""Attention of one new token per sample over the cached keys of its prompt and of the sample so far.

A prompt's keys are stored once and serve all its samples; each sample stores its own tokens apart. The layout is fixed, so the rule of
`types.Batch` becomes two masks: one of the prompt's tokens and one of the sample's.
"""

from functools import partial
from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from jaxalign import sharding

Array = jax.Array

TOKEN = ("rows", None, "heads", None)  # logical axes: of the new token's keys, of a prompt's cache, of the samples' cache
PROMPT = ("rows", "heads", None, None)
SAMPLE = ("rows", "heads", None, None, None)


class Keys(NamedTuple):
    """Keys and values of a layer. Places beyond a length hold anything finite.

    Keys have their places last and values their elements: then both products of the attention run along memory.
    """

    prompt_keys: Array  # [P, KV, E, T]
    prompt_values: Array  # [P, KV, T, E]
    keys: Array  # [P, KV, S, E, M]; of the sample's own tokens
    values: Array  # [P, KV, S, M, E]


@struct.dataclass
class Cache:
    """What came before the next token of S samples of P prompts; P is split over rows, KV over "tensor"."""

    memories: tuple[Keys, ...]  # of every layer
    prompt_length: Array  # int32[P]; tokens of the prompt that are cached
    length: Array  # int32[P, S]; tokens of the sample that are cached

    def positions(self) -> Array:
        """The position of the next token: int32[P, S]."""
        return self.prompt_length[:, None] + self.length


def empty(
    layers: int, prompts: int, samples: int, kv_heads: int, prompt_tokens: int, tokens: int, head_dim: int, dtype: jnp.dtype
) -> Cache:
    """A cache for so many prompts of at most prompt_tokens and samples of at most `tokens`, on the mesh in scope."""

    def zeros(shape, *axes, dtype=dtype):
        return jnp.zeros(shape, dtype, out_sharding=sharding.spec(*axes))

    def layer():
        prompt, sample = (prompts, kv_heads), (prompts, kv_heads, samples)
        return Keys(
            zeros((*prompt, head_dim, prompt_tokens), *PROMPT),
            zeros((*prompt, prompt_tokens, head_dim), *PROMPT),
            zeros((*sample, head_dim, tokens), *SAMPLE),
            zeros((*sample, tokens, head_dim), *SAMPLE),
        )

    lengths = zeros((prompts,), "rows", dtype=jnp.int32), zeros((prompts, samples), "rows", None, dtype=jnp.int32)
    return Cache(tuple(layer() for _ in range(layers)), *lengths)


def attend(
    q: Array, k: Array, v: Array, memory: Keys, prompt_length: Array, length: Array, window: Array, *, softcap: float
) -> tuple[Array, Keys]:
    """(attention [P, S, H, E] of scaled queries q [P, S, H, E] over the memory and their own k, v [P, S, KV, E], the memory with k and v).

    prompt_length int32[P] and length int32[P, S] are those of `Cache`, before this token; window is int32[], 0 = none; softcap caps the
    scores, 0 = none. A sample whose length is that of the memory is not written.
    """
    token, prompt, sample = (sharding.spec(*axes) for axes in (TOKEN, PROMPT, SAMPLE))
    keys, lengths = Keys(prompt, prompt, sample, sample), (sharding.rows_spec(1), sharding.rows_spec(2))
    local = jax.shard_map(
        partial(_attend_locally, softcap=softcap),
        in_specs=(token, token, token, keys, *lengths, sharding.spec()),
        out_specs=(token, keys),
        check_vma=False,
    )
    return local(q, k, v, memory, prompt_length, length, window)


def _attend_locally(q, k, v, memory, prompt_length, length, window, *, softcap):
    prompt, sample = jnp.meshgrid(*map(jnp.arange, length.shape), indexing="ij")
    memory = memory._replace(  # written before it is read, else XLA would copy it
        keys=memory.keys.at[prompt, :, sample, :, length].set(k, mode="drop", unique_indices=True),
        values=memory.values.at[prompt, :, sample, length].set(v, mode="drop", unique_indices=True),
    )
    return jax.vmap(partial(_one_prompt, window, softcap=softcap))(q, memory, prompt_length, length), memory


def _one_prompt(window, q, memory, prompt_length, length, *, softcap):
    """Attention [S, H, E] of the samples of one prompt: q is [S, H, E], length int32[S], and memory lacks its first axis."""
    (samples, _, size), (kv_heads, _, places) = q.shape, memory.prompt_keys.shape
    q = q.reshape(samples, kv_heads, -1, size).swapaxes(0, 1)
    scores = [
        _product("kqe,ket->kqt", q.reshape(kv_heads, -1, size), memory.prompt_keys).reshape(*q.shape[:3], places),
        (q[..., None].astype(jnp.float32) * memory.keys[:, :, None].astype(jnp.float32)).sum(-2),
    ]
    if softcap:
        scores = [softcap * jnp.tanh(x / softcap) for x in scores]
    age = prompt_length + length[:, None] - jnp.arange(places)  # [S, T]
    in_prompt = (jnp.arange(places) < prompt_length) & ((window == 0) | (age < window))
    age = length[:, None] - jnp.arange(memory.keys.shape[3])  # [S, M]
    in_sample = (age >= 0) & ((window == 0) | (age < window))
    scores = [jnp.where(seen[:, None], x, -jnp.inf) for seen, x in zip((in_prompt, in_sample), scores, strict=True)]
    largest = jnp.maximum(*(x.max(-1, keepdims=True) for x in scores))
    in_prompt, in_sample = (jnp.exp(x - largest) for x in scores)
    total = in_prompt.sum(-1, keepdims=True) + in_sample.sum(-1, keepdims=True)
    values = memory.prompt_values
    out = _product("kqt,kte->kqe", in_prompt.astype(values.dtype).reshape(kv_heads, -1, places), values).reshape(q.shape)
    out = out + (in_sample[..., None] * memory.values[:, :, None].astype(jnp.float32)).sum(-2)
    return (out / total).astype(q.dtype).swapaxes(0, 1).reshape(samples, -1, size)


def _product(subscripts: str, *operands: Array) -> Array:
    return jnp.einsum(subscripts, *operands, preferred_element_type=jnp.float32)

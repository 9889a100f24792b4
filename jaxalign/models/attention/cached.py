"""Attention of one new token per sample over the cached keys of its prompt and of the sample so far.

A prompt's keys are stored once and serve all its samples; each sample stores its own tokens apart. The layout is fixed, so the rule of
`types.Batch` becomes three masks: of the prompt, of the sample's earlier tokens, and the token itself, which is always visible.
"""

from functools import partial
from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from jaxalign import sharding

Array = jax.Array


class Keys(NamedTuple):
    """Keys and values; with a leading axis of layers in the cache, without in a layer. Places beyond a length hold anything finite."""

    prompt_keys: Array  # [P, KV, T, E]
    prompt_values: Array  # [P, KV, T, E]
    keys: Array  # [P, S, KV, M, E]; of the sample's own tokens
    values: Array  # [P, S, KV, M, E]


@struct.dataclass
class Cache:
    """What came before the next token of S samples of P prompts; P is split over rows, KV over "tensor"."""

    memory: Keys  # with layers in front
    prompt_length: Array  # int32[P]; tokens of the prompt that are cached
    length: Array  # int32[P, S]; tokens of the sample that are cached

    def positions(self) -> Array:
        """The position of the next token: int32[P, S]."""
        return self.prompt_length[:, None] + self.length


def empty(layers: int, prompts: int, samples: int, kv_heads: int, prompt_tokens: int, tokens: int, head_dim: int, dtype: jnp.dtype) -> Cache:
    """A cache for so many prompts of at most prompt_tokens and samples of at most `tokens`, on the mesh in scope."""

    def zeros(shape, *axes):
        return jnp.zeros(shape, dtype, out_sharding=sharding.spec(*axes))

    prompt = (layers, prompts, kv_heads, prompt_tokens, head_dim), (None, "rows", "heads", None, None)
    sample = (layers, prompts, samples, kv_heads, tokens, head_dim), (None, "rows", None, "heads", None, None)
    keys = Keys(*(zeros(shape, *axes) for shape, axes in (prompt, prompt, sample, sample)))
    lengths = jnp.zeros(prompts, jnp.int32, out_sharding=sharding.rows_spec(1))
    return Cache(keys, lengths, jnp.zeros((prompts, samples), jnp.int32, out_sharding=sharding.rows_spec(2)))


def store(cache: Cache, keys: Array, values: Array) -> Cache:
    """The cache with the next token's keys and values [layers, P, S, KV, E] of every sample written; the lengths stay.

    A sample whose length is that of the cache is not written.
    """
    new, old = sharding.spec(None, "rows", None, "heads", None), _samples_spec(None)

    def local(length, old_keys, old_values, keys, values):
        prompts, samples = jnp.meshgrid(*map(jnp.arange, length.shape), indexing="ij")
        place = jnp.index_exp[:, prompts, samples, :, length]
        put = partial(jnp.moveaxis, source=0, destination=2)
        return [x.at[place].set(put(y), mode="drop", unique_indices=True) for x, y in ((old_keys, keys), (old_values, values))]

    mapped = jax.shard_map(local, in_specs=(sharding.rows_spec(2), old, old, new, new), out_specs=[old, old])
    written = mapped(cache.length, cache.memory.keys, cache.memory.values, keys, values)
    return cache.replace(memory=cache.memory._replace(keys=written[0], values=written[1]))


def attend(
    q: Array, k: Array, v: Array, memory: Keys, prompt_length: Array, length: Array, window: Array, *, softcap: float
) -> Array:
    """Attention [P, S, H, E] of scaled queries q [P, S, H, E] over the memory of this layer and over their own k, v [P, S, KV, E].

    prompt_length int32[P] and length int32[P, S] are those of `Cache`; window is int32[], 0 = none; softcap caps the scores, 0 = none.
    """
    token, by_row = sharding.spec("rows", None, "heads", None), (sharding.rows_spec(1), sharding.rows_spec(2))
    prompt = sharding.spec("rows", "heads", None, None)
    local = partial(_attend_locally, softcap=softcap)
    specs = (token, token, token, Keys(prompt, prompt, _samples_spec(), _samples_spec()), *by_row, sharding.spec())
    return jax.shard_map(local, in_specs=specs, out_specs=token, check_vma=False)(q, k, v, memory, prompt_length, length, window)


def _attend_locally(q, k, v, memory, prompt_length, length, window, *, softcap):
    prompts, samples, heads, size = q.shape
    q, places = q.reshape(prompts, samples, k.shape[2], -1, size), memory.prompt_keys.shape[2]
    age = prompt_length[:, None, None] + length[:, :, None] - jnp.arange(places)  # [P, S, T]
    in_prompt = (jnp.arange(places) < prompt_length[:, None, None]) & ((window == 0) | (age < window))
    age = length[:, :, None] - jnp.arange(memory.keys.shape[3])  # [P, S, M]
    in_sample = (age > 0) & ((window == 0) | (age < window))
    scores = [
        jnp.where(in_prompt[:, :, None, None], _product("pskge,pkte->pskgt", q, memory.prompt_keys), -jnp.inf),
        jnp.where(in_sample[:, :, None, None], _product("pskge,pskme->pskgm", q, memory.keys), -jnp.inf),
        _product("pskge,pske->pskg", q, k)[..., None],
    ]
    scores = jnp.concatenate(scores, axis=-1)
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    in_prompt, in_sample, here = jnp.split(weights, (places, weights.shape[-1] - 1), axis=-1)
    out = _product("pskgt,pkte->pskge", in_prompt, memory.prompt_values) + _product("pskgm,pskme->pskge", in_sample, memory.values)
    out = out + here.astype(jnp.float32) * v[:, :, :, None].astype(jnp.float32)
    return out.astype(v.dtype).reshape(prompts, samples, heads, size)


def _samples_spec(*leading: None):
    return sharding.spec(*leading, "rows", None, "heads", None, None)


def _product(subscripts: str, *operands: Array) -> Array:
    return jnp.einsum(subscripts, *operands, preferred_element_type=jnp.float32)

"""The compiled part of sampling: S lanes for each of P prompts, a chunk of steps at a time.

A step feeds every lane's newest token to the decoder, draws the next one and writes it down. A lane whose sample ends takes up the next
sample of its prompt in the same step; lanes whose prompt has no sample left rest until the host brings in another prompt between chunks.
The first token that a lane reads is the prompt's last, so what is cached of a prompt is all but that token, as in a packed training row.
"""

from functools import partial
from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from jaxalign import sharding
from jaxalign.lm_head import chunks
from jaxalign.models import model as models
from jaxalign.models.attention import cached
from jaxalign.sampling import law as laws

Array = jax.Array
RUNNING, STOP_TOKEN, LENGTH = 0, 1, 2  # why a sample ended


@struct.dataclass
class Prompts:
    """What the lanes of a prompt share: int32[P] each, but the random keys."""

    keys: Array  # uint32[P, N, 2]; data of the random key of every sample
    last: Array  # the prompt's last token
    next: Array  # the sample that the next free lane takes
    end: Array  # the number of samples

    @classmethod
    def none(cls, prompts: int, samples: int):
        keys = jnp.zeros((prompts, samples, 2), jnp.uint32, out_sharding=sharding.rows_spec(3))
        return cls(keys, *(jnp.zeros(prompts, jnp.int32, out_sharding=sharding.rows_spec(1)) for _ in range(3)))


@struct.dataclass
class Texts:
    """What the samples of the prompts in the lanes are so far: [P, N, M] for M tokens of N samples."""

    tokens: Array  # int32
    logps: Array  # float32; log-prob under the model
    sampled_logps: Array  # float32; log-prob under the law that was drawn from
    length: Array  # int32[P, N]
    why: Array  # int32[P, N]; RUNNING, STOP_TOKEN or LENGTH

    @classmethod
    def none(cls, prompts: int, samples: int, tokens: int):
        def zeros(dtype, *shape):
            return jnp.zeros((prompts, *shape), dtype, out_sharding=sharding.rows_spec(1 + len(shape)))

        numbers = zeros(jnp.float32, samples, tokens), zeros(jnp.float32, samples, tokens)
        return cls(zeros(jnp.int32, samples, tokens), *numbers, zeros(jnp.int32, samples), zeros(jnp.int32, samples))


class Weights(NamedTuple):
    """What a step reads of a model."""

    decoder: models.Weights
    head: Array  # [D, V]; its rows one after the other, so that the product has its logits one after the other


@struct.dataclass
class State:
    """Everything that a step changes."""

    cache: cached.Cache
    prompts: Prompts
    texts: Texts
    token: Array  # int32[P, S]; what each lane reads next
    sample: Array  # int32[P, S]; the sample in the lane; -1: none
    steps: Array  # int32[]
    most: Array  # int32[]; tokens after which a sample ends


@struct.dataclass
class Entering:
    """Prompts that come into lanes, on the host: int32[P] each; where `row` is below 0 the old prompt stays."""

    row: Array  # of the prefilled batch
    start: Array  # the place of the prompt's first token in that row
    length: Array  # tokens that are cached
    prompts: Prompts


def gathered(model: models.Model, params, dtype: jnp.dtype) -> Weights:
    """The weights of all chunks: whole over fsdp, so that they are gathered once for all tokens."""
    decoder = models.gathered(model, params, dtype)
    return Weights(decoder, models.unembed(model, decoder.outside).T)


def begin(
    model: models.Model, *, prompts: int, lanes: int, samples: int, prompt_tokens: int, tokens: int, most: Array, dtype: jnp.dtype
) -> State:
    """A state without prompts, on the mesh in scope.

    Args:
      prompts, lanes: prompts at a time, and lanes of each.
      samples, tokens: most samples of a prompt, and most tokens of a sample that there is room for.
      prompt_tokens: most tokens of a prompt that are cached.
      most: int32[], at most `tokens`; a sample ends after so many.
    """
    config, tensor = model.config, sharding.mesh_shape()["tensor"]
    kv_heads = config.heads if config.kv_heads % tensor else config.kv_heads
    cache = cached.empty(config.layers, prompts, lanes, kv_heads, prompt_tokens, tokens, config.head_dim, dtype)
    idle = jnp.full((prompts, lanes), -1, out_sharding=sharding.rows_spec(2))
    nothing = Prompts.none(prompts, samples), Texts.none(prompts, samples, tokens)
    return State(cache, *nothing, jnp.zeros_like(idle), idle, jnp.int32(0), jnp.asarray(most))


def enter(state: State, keys: Array, values: Array, entering: Entering) -> State:
    """The state with prompts of a prefilled batch, keys and values [layers, R, T, KV, E], in the lanes of the places where row >= 0."""
    every = sharding.spec(None, None, "heads", None)
    specs, by_row = sharding.spec(*cached.PROMPT), sharding.rows_spec(1)

    def local(old, new, row, start, *, places, order):
        index = jnp.minimum(start[:, None] + jnp.arange(places), new.shape[1] - 1)
        taken = new.at[row[:, None], index].get(mode="clip")  # [P, places, KV, E]
        return jnp.where(row[:, None, None, None] >= 0, taken.transpose(order), old)

    def put(old, new, places, order):
        mapped = partial(local, places=places, order=order)
        mapped = jax.shard_map(mapped, in_specs=(specs, every, by_row, by_row), out_specs=specs, check_vma=False)
        return mapped(old, jax.reshard(new, every), entering.row, entering.start)  # a prompt may enter a place of another device

    memories, new = [], entering.row >= 0
    for layer, memory in enumerate(state.cache.memories):
        places = memory.prompt_values.shape[2]
        memory = memory._replace(
            prompt_keys=put(memory.prompt_keys, keys[layer], places, (0, 2, 3, 1)),
            prompt_values=put(memory.prompt_values, values[layer], places, (0, 2, 1, 3)),
        )
        memories.append(memory)
    cached_tokens = jnp.where(new, entering.length, state.cache.prompt_length)
    prompts = jax.tree.map(lambda x, y: jnp.where(new.reshape(-1, *(1,) * (x.ndim - 1)), x, y), entering.prompts, state.prompts)
    return _begun(state.replace(cache=state.cache.replace(memories=tuple(memories), prompt_length=cached_tokens), prompts=prompts), new)


def share(state: State, source: Array, prompts: Prompts) -> State:
    """The state in which the places with source >= 0 have the prompt of another place, and all places have these samples to draw.

    source is int32[P]: the number of the other place among those of the same device.
    """
    specs, by_row = sharding.spec(*cached.PROMPT), sharding.rows_spec(1)

    def local(source, lengths, arrays):
        def taken(x):
            return jnp.where((source >= 0).reshape(-1, *(1,) * (x.ndim - 1)), x[jnp.maximum(source, 0)], x)

        return taken(lengths), [taken(x) for x in arrays]

    memories = state.cache.memories
    arrays = [x for memory in memories for x in (memory.prompt_keys, memory.prompt_values)]
    layout = by_row, [specs] * len(arrays)
    lengths, arrays = jax.shard_map(local, in_specs=(by_row, *layout), out_specs=layout)(source, state.cache.prompt_length, arrays)
    pairs = zip(memories, arrays[::2], arrays[1::2], strict=True)
    memories = tuple(memory._replace(prompt_keys=keys, prompt_values=values) for memory, keys, values in pairs)
    cache = state.cache.replace(memories=memories, prompt_length=lengths)
    return _begun(state.replace(cache=cache, prompts=prompts), source >= 0)


def _begun(state: State, new: Array) -> State:
    """The state in which the places that are new, bool[P], have no sample yet."""
    old = ~new[:, None]
    texts = state.texts.replace(length=jnp.where(old, state.texts.length, 0), why=jnp.where(old, state.texts.why, RUNNING))
    return state.replace(sample=jnp.where(old, state.sample, -1), texts=texts)


def run(
    model: models.Model,
    weights: Weights,
    state: State,
    ended: Array,
    steps: Array,
    free_places: Array,
    *,
    law: laws.Law,
    stop_ids: tuple[int, ...],
    min_new_tokens: int,
    dtype: jnp.dtype,
) -> State:
    """The state after at most `steps` steps, fewer where so many places become free, or all.

    Args:
      model, weights: as `gathered` gives them.
      state: of all lanes.
      ended: bool[P, S]; lanes whose sample the host ended.
      steps: int32[].
      free_places: int32[]; at least 1. A place is free when none of its lanes has a sample left.
      law: how tokens are drawn.
      stop_ids: tokens after which a sample ends; the first min_new_tokens tokens are none of them.
      dtype: of the matmuls.
    """
    state = _take_up(state, ended | (state.sample < 0))
    known = chunks.Options(model.config.vocab_size, model.config.logit_softcap or None, chunk=0)
    options = {"law": law, "stop_ids": stop_ids, "min_new_tokens": min_new_tokens, "options": known}

    def step(carry):
        done, state = carry
        hidden, cache = models.decode(model, weights.decoder, state.token, state.cache, dtype=dtype)
        state = state.replace(cache=cache, steps=state.steps + 1)
        return done + 1, _next(state, hidden, weights.head, **options)

    def goes_on(carry):
        done, state = carry
        used = (state.sample >= 0).any(1).sum()
        return (done < steps) & (used > 0) & (len(state.sample) - used < free_places)

    return jax.lax.while_loop(goes_on, step, (jnp.int32(0), state))[1]


def _next(state: State, hidden: Array, head: Array, **options) -> State:
    """The state after a token was drawn for every lane, from its hidden state [P, S, D] and the head [D, V]."""
    small = state.replace(cache=state.cache.replace(memories=None))  # the keys stay where they are
    specs = jax.tree.map(lambda x: sharding.rows_spec(x.ndim) if x.ndim else sharding.spec(), small)
    in_specs = (specs, sharding.rows_spec(3), sharding.spec(None, "vocab"))
    mapped = jax.shard_map(partial(_next_locally, **options), in_specs=in_specs, out_specs=specs, check_vma=False)
    after = mapped(small, hidden, head)
    return after.replace(cache=after.cache.replace(memories=state.cache.memories))


def _next_locally(state, hidden, head, *, law, stop_ids, min_new_tokens, options):
    values = jnp.einsum("cd,dv->cv", hidden.reshape(-1, hidden.shape[-1]), head, preferred_element_type=jnp.float32)
    values = jax.lax.all_gather(values, "tensor", axis=1, tiled=True)
    logits = chunks.capped(values, jnp.arange(values.shape[1]), options, padded_vocab=values.shape[1])
    shape, length = state.sample.shape, state.cache.length
    allowed = logits
    if stop_ids and min_new_tokens:
        too_early = jnp.isin(jnp.arange(logits.shape[1]), jnp.array(stop_ids)) & (length.reshape(-1, 1) < min_new_tokens)
        allowed = jnp.where(too_early, -jnp.inf, logits)
    values = laws.log_probs(allowed, law)
    if law.temperature == 0:
        token = values.argmax(1)
    else:
        keys = jnp.take_along_axis(state.prompts.keys, jnp.maximum(state.sample, 0)[:, :, None], axis=1)
        token = laws.draw(values, _uniform(keys.reshape(-1, 2), length.ravel()))
    at = token[:, None]
    logps = jnp.take_along_axis(jax.nn.log_softmax(logits), at, axis=1).reshape(shape)
    sampled_logps = jnp.take_along_axis(values, at, axis=1).reshape(shape)
    return _written(state, token.reshape(shape), logps, sampled_logps, stop_ids)


def _uniform(keys: Array, places: Array) -> Array:
    """A number in [0, 1) for each place [C] of a sample with this key data [C, 2]."""
    folded = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(keys, impl="threefry2x32"), places)
    bits = jax.random.key_data(folded)[:, 0]  # a folded key is random itself: one call of the generator per token
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def _written(state, token, logps, sampled_logps, stop_ids):
    texts, length = state.texts, state.cache.length
    active = state.sample >= 0
    prompt = jnp.arange(len(token))[:, None]
    sample = jnp.where(active, state.sample, texts.length.shape[1])  # beyond the end: what a resting lane draws is dropped
    length = length + active
    stopped = jnp.isin(token, jnp.array(stop_ids, jnp.int32)) if stop_ids else jnp.zeros_like(active)
    why = jnp.where(stopped, STOP_TOKEN, jnp.where(length >= state.most, LENGTH, RUNNING))
    place = prompt, sample, length - 1
    texts = Texts(
        tokens=texts.tokens.at[place].set(token, mode="drop"),
        logps=texts.logps.at[place].set(logps, mode="drop"),
        sampled_logps=texts.sampled_logps.at[place].set(sampled_logps, mode="drop"),
        length=texts.length.at[prompt, sample].set(length, mode="drop"),
        why=texts.why.at[prompt, sample].set(why, mode="drop"),
    )
    state = state.replace(texts=texts, token=token, cache=state.cache.replace(length=length))
    return _take_up(state, active & (why != RUNNING))


def _take_up(state: State, free: Array) -> State:
    """The state in which the lanes that are free have taken up the next samples of their prompts, in order, or rest."""
    prompts = state.prompts
    number = prompts.next[:, None] + jnp.cumsum(free, axis=1) - 1
    sample = jnp.where(free, jnp.where(number < prompts.end[:, None], number, -1), state.sample)
    started = free & (sample >= 0)
    return state.replace(
        sample=sample,
        token=jnp.where(started, prompts.last[:, None], state.token),
        cache=state.cache.replace(length=jnp.where(free, 0, state.cache.length)),
        prompts=prompts.replace(next=prompts.next + started.sum(1)),
    )

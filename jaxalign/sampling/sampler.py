"""Samples of a model for many prompts: prompts are prefilled in packed rows, and wait for a free place in the compiled loop.

Every distinct prompt is computed once, however many samples it has and however often it stands in the list. What a sample says depends on
the seed, its prompt and its number alone, not on the other prompts, their order, the number of lanes or the mesh; a prompt that stands in
the list twice gets the same samples twice.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
import dataclasses
from functools import partial
from typing import NamedTuple
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import sharding
from jaxalign.models import model as models
from jaxalign.sampling import batches, loop
from jaxalign.sampling.batches import Ids
from jaxalign.sampling.law import Law
from jaxalign.sampling.stopping import Stopping, Why

CHUNK, WATCHED_CHUNK = 256, 16  # most steps between two looks of the host; the fewer where it watches for strings
RESTING = 8  # while prompts wait, a chunk ends as soon as one of so many places is free
WHY = {loop.STOP_TOKEN: "stop", loop.LENGTH: "length"}

TextOf = Callable[[Ids, Sequence[int]], str]  # (ids of the prompt, ids of the sample) -> text of the sample


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a model said to a prompt."""

    prompt: int  # its place in the list
    number: int  # of the samples of this prompt
    token_ids: np.ndarray  # int32[L]; the stop token included
    logps: np.ndarray  # float32[L]; log-prob of every token under the model
    sampled_logps: np.ndarray  # float32[L]; log-prob of every token under the law that it was drawn from
    stop: Why  # what ended it: "stop" a stop token, "string" a stop string, "length" max_new_tokens


@dataclasses.dataclass
class Usage:
    """What sampling has cost so far."""

    tokens: int = 0  # of distinct samples
    lane_steps: int = 0  # steps times lanes

    @property
    def busy(self) -> float:
        """The share of lane-steps that drew a token of a sample."""
        return self.tokens / max(1, self.lane_steps)


class Sampler:
    """Draws samples from one model; what it compiles serves all calls with prompts of like lengths."""

    def __init__(
        self,
        model: models.Model,
        *,
        law: Law,
        stopping: Stopping,
        seed: int,
        places: int,
        lanes: int,
        dtype: jnp.dtype,
        attention: str,
        text_of: TextOf | None = None,
    ):
        """Compiles nothing yet.

        Args:
          model: the decoder; its params come with each call.
          law: how a token is drawn.
          stopping: when a sample ends.
          seed: of the random keys.
          places: prompts that are in the loop at a time; rounded up to what the mesh in scope divides.
          lanes: samples of each of these prompts that are drawn side by side; they share the prompt's keys.
          dtype: of the matmuls and of the cache.
          attention: the implementation for the prefill.
          text_of: gives the text in which stop strings are looked for.

        Raises:
          ValueError: stop strings without text_of, or a size below 1.
        """
        if stopping.strings and text_of is None:
            raise ValueError("stop strings are found in text, so they need text_of; use stop ids, or give the tokenizer's decoding.")
        if min(places, lanes) < 1:
            raise ValueError(f"places={places} and lanes={lanes} must be at least 1.")
        self.model, self.stopping, self.text_of, self.dtype = model, stopping, text_of, dtype
        self.shards = int(np.prod([sharding.mesh_shape()[axis] for axis in sharding.mesh_axes("rows")]))
        self.places, self.lanes, self.usage = -(-places // self.shards) * self.shards, lanes, Usage()
        options = {"law": law, "stop_ids": stopping.ids, "min_new_tokens": stopping.min_new_tokens, "dtype": dtype}
        self.prefill = jax.jit(partial(models.prefill, model, dtype=dtype, attention=attention))
        self.enter = jax.jit(loop.enter, donate_argnums=0)
        self.run = jax.jit(partial(loop.run, model, **options), donate_argnums=1)
        self.begin = jax.jit(partial(loop.begin, model, dtype=dtype), static_argnames=("prompts", "lanes", "samples", "prompt_tokens", "tokens"))
        self.random_keys = jax.jit(partial(_random_keys, seed), static_argnames="samples")
        self.whole = jax.jit(lambda tree: jax.tree.map(lambda x: jax.reshard(x, sharding.spec(*(None,) * x.ndim)), tree))

    def draw(self, params, prompts: Sequence[Sequence[int]], *, samples: int, done: Collection[tuple[int, int]] = ()) -> Iterator[Sample]:
        """Yields the samples 0 to samples - 1 of every prompt as they end, but those in `done`, (prompt, number).

        Args:
          params: float32 parameters of the model.
          prompts: token ids, which the samples continue.
          samples: of every prompt.
          done: what an earlier call has drawn.

        Raises:
          ValueError: an empty prompt, one that leaves no room for max_new_tokens, or a token beyond the vocabulary.
        """
        owners: dict[Ids, list[int]] = {}
        for i, ids in enumerate(prompts):
            self._check(i, ids)
            owners.setdefault(tuple(ids), []).append(i)
        if not owners:
            return
        for ids, number, fields in _Drawing(self, params, owners, samples, done).samples():
            for prompt in owners[ids]:
                if (prompt, number) not in done:
                    yield Sample(prompt, number, *fields)

    def _check(self, number, ids):
        config, new = self.model.config, self.stopping.max_new_tokens
        if not len(ids):
            raise ValueError(f"prompt {number} is empty; begin it with at least one token, for example BOS.")
        if not 0 <= min(ids) <= max(ids) < config.vocab_size:
            raise ValueError(f"prompt {number} has a token outside of the model's vocabulary, 0 to {config.vocab_size - 1}.")
        if len(ids) + new > config.max_positions:
            raise ValueError(
                f"prompt {number} has {len(ids)} tokens, and with max_new_tokens={new} that is more than the model's "
                f"{config.max_positions} positions; shorten the prompt or lower max_new_tokens."
            )


class _Request(NamedTuple):
    """Samples first to end - 1 of a prompt."""

    place: batches.Place
    first: int
    end: int


class _Drawing:
    """One call of `Sampler.draw`: the prompts in the loop, those that wait in the prefilled batch, and the batches to come."""

    def __init__(self, sampler, params, owners, samples, done):
        self.sampler, self.params = sampler, params
        self.plan = batches.plan(list(owners), shards=sampler.shards)
        first = batches.first_missing(owners, samples, done)
        requests = ([_Request(place, first[place.ids], samples) for place in batch] for batch in self.plan.batches)
        self.batches = deque((batch, [r for r in rest if r.first < r.end]) for batch, rest in zip(self.plan.batches, requests, strict=True))
        self.batches = deque((batch, requests) for batch, requests in self.batches if requests)
        self.waiting: deque[_Request] = deque()
        self.samples_each = samples
        self.inside: list[_Request | None] = [None] * sampler.places
        self.found: list[set[int]] = [set() for _ in self.inside]  # numbers of the samples of each place that were yielded
        self.state = sampler.begin(
            prompts=sampler.places,
            lanes=sampler.lanes,
            samples=samples,
            prompt_tokens=self.plan.prompt_tokens,
            tokens=sampler.stopping.max_new_tokens,
        )

    def samples(self) -> Iterator[tuple[Ids, int, tuple]]:
        """Yields (prompt, number of the sample, the other fields of `Sample`) as samples end."""
        sampler, shape = self.sampler, (self.sampler.places, self.sampler.lanes)
        ended, steps = np.zeros(shape, bool), WATCHED_CHUNK if sampler.stopping.strings else CHUNK
        while self._fill():
            free = max(1, sampler.places // RESTING) if self.waiting or self.batches else sampler.places
            before = int(self.state.steps)
            self.state = sampler.run(self.params, self.state, _by_row(ended), jnp.int32(steps), jnp.int32(free))
            sampler.usage.lane_steps += (int(self.state.steps) - before) * ended.size
            lanes, texts = jax.device_get(sampler.whole((self.state.sample, self.state.texts)))
            ended = np.zeros(shape, bool)
            for place, request in enumerate(self.inside):
                if request is not None:
                    for number, fields in self._ended(place, request, texts):
                        ended[place] |= lanes[place] == number
                        sampler.usage.tokens += len(fields[0])
                        yield request.place.ids, number, fields
                    if len(self.found[place]) == request.end - request.first:
                        self.inside[place] = None

    def _ended(self, place, request, texts):
        # (number, fields of `Sample`) of the samples of a place that have ended and were not yielded before
        for number in range(request.first, request.end):
            count, why = int(texts.length[place, number]), int(texts.why[place, number])
            if not count or number in self.found[place]:
                continue
            ids = texts.tokens[place, number, :count]
            cut = self.sampler.stopping.tokens_before_string(ids.tolist(), lambda part: self.sampler.text_of(request.place.ids, part))
            if cut is None and why == loop.RUNNING:
                continue
            self.found[place].add(number)
            span = slice(0, count if cut is None else cut)
            numbers = texts.logps[place, number, span], texts.sampled_logps[place, number, span]
            yield number, (ids[span].copy(), *(x.copy() for x in numbers), WHY[why] if cut is None else "string")

    def _fill(self) -> bool:
        """Brings prompts that wait into the places that are free; whether any place is taken then."""
        while None in self.inside and (self.waiting or self.batches):
            if not self.waiting:
                batch, requests = self.batches.popleft()
                self.keys = self.sampler.prefill(self.params, *(_by_row(x) for x in self.plan.arrays(batch)))
                self.waiting.extend(requests)
            self._enter()
        return any(request is not None for request in self.inside)

    def _enter(self):
        free = [place for place, request in enumerate(self.inside) if request is None]
        entering = {place: request for place, request in zip(free, self._shares(len(free)), strict=False)}
        numbers, names = np.full((6, self.sampler.places), -1, np.int32), np.zeros(self.sampler.places, np.uint32)
        for place, (at, first, end) in entering.items():
            numbers[:, place] = at.row, at.start, at.cached, at.ids[-1], first, end
            names[place] = zlib.crc32(np.array(at.ids, np.int32).tobytes())
            self.inside[place], self.found[place] = _Request(at, first, end), set()
        row, start, length, last, first, end = map(_by_row, numbers)
        keys = _by_row(np.asarray(self.sampler.random_keys(names, samples=self.samples_each)))
        entering = loop.Entering(row, start, length, loop.Prompts(keys, last, first, end))
        self.state = self.sampler.enter(self.state, *self.keys, entering)

    def _shares(self, free: int) -> list[_Request]:
        """The next requests for so many places. The last prompts of all are shared out, their samples to several places."""
        taken = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
        if self.waiting or self.batches:
            return taken
        lanes, shares = self.sampler.lanes, []
        for i, (place, first, end) in enumerate(taken):
            most = (free - len(shares)) // (len(taken) - i)
            parts = max(1, min(most, -(-(end - first) // lanes)))
            edges = np.linspace(first, end, parts + 1).round().astype(int)
            shares += [_Request(place, int(a), int(b)) for a, b in zip(edges, edges[1:], strict=False)]
        return shares


def _random_keys(seed: int, names: jax.Array, *, samples: int) -> jax.Array:
    """Key data of every sample of the prompts with these names: uint32[P, samples, 2]."""
    with_name = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed, impl="threefry2x32"), names)
    with_number = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(with_name, jnp.arange(samples))
    return jax.random.key_data(with_number)


def _by_row(x: np.ndarray) -> jax.Array:
    return jax.make_array_from_callback(x.shape, sharding.named(sharding.rows_spec(x.ndim)), lambda index: x[index])

"""One call of the sampler on the host: which prompt is in which place of the loop, and which come next.

Prompts are prefilled a batch at a time, wait there for a free place, and leave it when their last sample has ended. Towards the end, when
no prompt waits, a free place takes over samples that a prompt on the same device has not begun.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import sharding
from jaxalign.sampling import batches, loop
from jaxalign.sampling.batches import Ids

CHUNK, WATCHED_CHUNK = 256, 16  # most steps between two looks of the host; the fewer where it watches for strings
RESTING = 16  # a chunk ends as soon as one of so many places is free, where something can come into it
WHY = {loop.RUNNING: None, loop.STOP_TOKEN: "stop", loop.LENGTH: "length"}


class Request(NamedTuple):
    """Samples first to end - 1 of a prompt."""

    place: batches.Place
    first: int
    end: int


class Drawing:
    """One call of `Sampler.draw`: the prompts in the loop, those that wait in the prefilled batch, and the batches to come."""

    def __init__(self, sampler, params, owners, samples, done, *, seed, room=0, look=None, most=None):
        """One call.

        Args:
          room: least places of a prompt in the cache.
          look: steps after which samples that go on are yielded too; None: never.
          most: tokens of a sample, up to max_new_tokens; None: these.
        """
        self.sampler, self.params, self.weights, self.seed, self.look = sampler, params, sampler.weights(params), seed, look
        self.plan = batches.plan(list(owners), shards=sampler.shards, room=room)
        first = batches.first_missing(owners, samples, done)
        self.batches: deque[tuple[Sequence[batches.Place], list[Request]]] = deque()  # whole batches, and what of them is to be drawn
        for batch in self.plan.batches:
            requests = [Request(place, first[place.ids], samples) for place in batch if first[place.ids] < samples]
            if requests:
                self.batches.append((batch, requests))
        self.waiting: deque[Request] = deque()
        self.samples_each = samples
        self.inside: list[Request | None] = [None] * sampler.places
        self.found: list[set[int]] = [set() for _ in self.inside]  # numbers of the samples of each place that were yielded
        self.begun = np.zeros(sampler.places, np.int32)  # the number of the sample that each place begins next
        self.state = sampler.begin(
            prompts=sampler.places,
            lanes=sampler.lanes,
            samples=samples,
            prompt_tokens=self.plan.prompt_tokens,
            tokens=sampler.stopping.max_new_tokens,
            most=np.int32(sampler.stopping.max_new_tokens if most is None else most),
        )

    def samples(self) -> Iterator[tuple[Ids, int, tuple]]:
        """Yields (prompt, number of the sample, the other fields of `Sample`) as samples end, and where it looks, as they grow."""
        sampler, shape = self.sampler, (self.sampler.places, self.sampler.lanes)
        ended, steps = np.zeros(shape, bool), self.look or (WATCHED_CHUNK if sampler.stopping.strings else CHUNK)
        while self._fill():
            comes = self.waiting or self.batches or any(self._left(place) for place in range(sampler.places))
            free = self.inside.count(None) + max(1, sampler.places // RESTING) if comes else sampler.places
            before = int(self.state.steps)
            self.state = sampler.run(self.weights, self.state, _by_row(ended), jnp.int32(steps), jnp.int32(free))
            sampler.usage.lane_steps += (int(self.state.steps) - before) * ended.size
            lanes, texts, begun = jax.device_get(sampler.whole((self.state.sample, self.state.texts, self.state.prompts.next)))
            self.begun = begun.copy()
            ended = np.zeros(shape, bool)
            for place, request in enumerate(self.inside):
                if request is not None:
                    for number, fields in self._heard(place, request, texts):
                        if fields[-1] is not None:
                            ended[place] |= lanes[place] == number
                            sampler.usage.tokens += len(fields[0])
                        yield request.place.ids, number, fields
                    if len(self.found[place]) == request.end - request.first:
                        self.inside[place] = None

    def _heard(self, place, request, texts):
        # (number, fields of `Sample`) of the samples of a place that have ended and were not yielded before, and of those that it looks at
        for number in range(request.first, request.end):
            count, why = int(texts.length[place, number]), int(texts.why[place, number])
            if not count or number in self.found[place]:
                continue
            ids = texts.tokens[place, number, :count]
            cut = self.sampler.stopping.tokens_before_string(ids.tolist(), lambda part: self.sampler.text_of(request.place.ids, part))
            stop = WHY[why] if cut is None else "string"
            if stop is None and self.look is None:
                continue
            if stop is not None:
                self.found[place].add(number)
            span = slice(0, count if cut is None else cut)
            numbers = texts.logps[place, number, span], texts.sampled_logps[place, number, span]
            yield number, (ids[span].copy(), *(x.copy() for x in numbers), stop)

    def _fill(self) -> bool:
        """Brings prompts that wait into the places that are free; whether any place is taken then."""
        while None in self.inside and (self.waiting or self.batches):
            if not self.waiting:
                batch, requests = self.batches.popleft()
                self.keys = self.sampler.prefill(self.params, *(_by_row(x) for x in self.plan.arrays(batch)))
                self.waiting.extend(requests)
            self._enter()
        if not self.waiting and not self.batches:
            self._share_out()
        return any(request is not None for request in self.inside)

    def _enter(self):
        free = [place for place, request in enumerate(self.inside) if request is None]
        entering = {place: request for place, request in zip(free, self._shares(len(free)), strict=False)}
        numbers = np.full((3, self.sampler.places), -1, np.int32)
        for place, request in entering.items():
            numbers[:, place] = request.place.row, request.place.start, request.place.cached
            self._put(place, request)
        self.state = self.sampler.enter(self.state, *self.keys, loop.Entering(*map(_by_row, numbers), self._prompts()))

    def _share_out(self):
        """Gives half of the samples that a prompt has not begun to a place that is free, while there are both on a device."""
        if not any(map(self._left, range(self.sampler.places))):
            return
        source, each = np.arange(self.sampler.places, dtype=np.int32), self.sampler.places // self.sampler.shards
        for place in [place for place, request in enumerate(self.inside) if request is None]:
            donor = max(range(place // each * each, place // each * each + each), key=self._left)
            if self._left(donor):
                request, middle = self.inside[donor], self.inside[donor].end - (self._left(donor) + 1) // 2
                self.inside[donor] = request._replace(end=middle)
                self._put(place, request._replace(first=middle))
                source[place] = source[donor]
        moved = source != np.arange(len(source))
        if moved.any():
            self.state = self.sampler.share(self.state, _by_row(np.where(moved, source % each, -1)), self._prompts())

    def _put(self, place, request):
        self.inside[place], self.found[place], self.begun[place] = request, set(), request.first

    def _left(self, place) -> int:
        """How many samples of a place have not begun."""
        request = self.inside[place]
        return 0 if request is None else request.end - int(self.begun[place])

    def _prompts(self) -> loop.Prompts:
        taken = [(i, request) for i, request in enumerate(self.inside) if request is not None]
        names, last, end = np.zeros(len(self.inside), np.uint32), *np.zeros((2, len(self.inside)), np.int32)
        for i, request in taken:
            names[i] = zlib.crc32(np.array(request.place.ids, np.int32).tobytes())
            last[i], end[i] = request.place.ids[-1], request.end
        keys = np.asarray(self.sampler.random_keys(np.uint32(self.seed), names, samples=self.samples_each))
        return loop.Prompts(*map(_by_row, (keys, last, np.minimum(self.begun, end), end)))

    def _shares(self, free: int) -> list[Request]:
        """The next requests for so many places. The last prompts of all are shared out, their samples to several places."""
        taken = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
        if self.waiting or self.batches:
            return taken
        lanes, shares = self.sampler.lanes, []
        for i, (place, first, end) in enumerate(taken):
            most = (free - len(shares)) // (len(taken) - i)
            parts = max(1, min(most, -(-(end - first) // lanes)))
            edges = np.linspace(first, end, parts + 1).round().astype(int)
            shares += [Request(place, int(a), int(b)) for a, b in zip(edges, edges[1:], strict=False)]
        return shares


def _by_row(x: np.ndarray) -> jax.Array:
    return jax.make_array_from_callback(x.shape, sharding.named(sharding.rows_spec(x.ndim)), lambda index: x[index])

"""Packed rows of prompts to prefill: which prompt stands where, the same for the same list whatever of it has been drawn already."""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from jaxalign.data.rows import pack

BUCKET = 64  # prompts are cached in a multiple of so many places, so that few lengths are compiled
ROW_TOKENS = 256  # of a row, where no prompt needs more; on CPU, attention leaves out what is not seen from four blocks on
BATCH_TOKENS = 4096  # of a batch, on each shard of the rows

Ids = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the keys of a prompt stand in a prefilled batch."""

    ids: Ids
    row: int
    start: int

    @property
    def cached(self) -> int:
        """Tokens whose keys are cached: all but the last, which the first step of decoding reads."""
        return len(self.ids) - 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """Batches of one shape."""

    rows: int
    row_tokens: int
    prompt_tokens: int  # places that the longest prompt needs in the cache
    batches: Sequence[Sequence[Place]]

    def arrays(self, batch: Sequence[Place]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(tokens, positions, segments) of a batch, int32[rows, row_tokens] each."""
        tokens, positions, segments = (np.zeros((self.rows, self.row_tokens), np.int32) for _ in range(3))
        for number, place in enumerate(batch, 1):
            span = place.row, slice(place.start, place.start + place.cached)
            tokens[span], positions[span], segments[span] = place.ids[:-1], np.arange(place.cached), number
        return tokens, positions, segments


def plan(prompts: Sequence[Ids], *, shards: int, room: int = 0) -> Plan:
    """The plan for distinct prompts, for rows that are split over so many devices; batches follow the order of the prompts.

    `room`: the least number of tokens that a row and a prompt's cache hold. With it the number of rows is a power of two per device, so
    that lists of like lengths have one shape.
    """
    lengths = np.array([max(1, len(ids) - 1) for ids in prompts])
    longest, total = _bucket(max(room, int(lengths.max()))), int(lengths.sum())
    row_tokens = max(longest, min(ROW_TOKENS, _bucket(total)))
    count = -(-total // (BATCH_TOKENS * shards))
    number = np.minimum((np.cumsum(lengths) - 1) * count // total, count - 1)  # of the batch of each prompt
    members = [np.flatnonzero(number == i) for i in np.unique(number)]
    planned = [pack.plan_rows(lengths[own], row_tokens=row_tokens, pack=True, max_groups=len(own)) for own in members]
    each = -(-max(map(len, planned)) // shards)
    rows = (1 << (each - 1).bit_length() if room else each) * shards
    return Plan(rows, row_tokens, longest, [_places(prompts, own, one) for own, one in zip(members, planned, strict=True)])


def _places(prompts, own, rows):
    places = []
    for row, groups in enumerate(rows):
        start = 0
        for group in groups[groups >= 0]:
            places.append((own[group], Place(prompts[own[group]], row, start)))
            start += places[-1][1].cached
    return [place for _, place in sorted(places, key=lambda numbered: numbered[0])]


def first_missing(owners: Mapping[Ids, Sequence[int]], samples: int, done) -> dict[Ids, int]:
    """Prompt -> the first number of its samples that is not done for one of the places where it stands in the list."""
    return {ids: next((k for k in range(samples) if any((i, k) not in done for i in indices)), samples) for ids, indices in owners.items()}


def _bucket(tokens: int) -> int:
    return max(1, -(-tokens // BUCKET)) * BUCKET

"""The fixed prompts of an evaluation: those that are new, and leave the model room to answer."""

from collections.abc import Iterable, Iterator

from jaxalign.data.raw.counts import Counts
from jaxalign.data.raw.prompts import Asked
from jaxalign.sampling.speaker import Speaker, askable


def chosen(asked: Iterable[Asked], speaker: Speaker, counts: Counts, *, limit: int | None, most_tokens: int) -> list[Asked]:
    """The first `limit` prompts (None: all) of different tokens and of at most so many; the others up to there are counted as dropped.

    Raises:
      ValueError: none is left.
    """
    kept = []
    for one in _usable(asked, speaker, counts, most_tokens):
        kept.append(one)
        if len(kept) == limit:
            break
    counts.kept = len(kept)
    if not kept:
        raise ValueError("there is no prompt to answer:\n" + "\n".join(counts.lines()))
    return kept


def _usable(asked: Iterable[Asked], speaker: Speaker, counts: Counts, most_tokens: int) -> Iterator[Asked]:
    known = set()
    for one, ids in askable(asked, speaker.renderer, counts, most_tokens=most_tokens):
        if ids in known:
            counts.add("same_prompt", "dropped", one.number, "an earlier row asks the same")
        else:
            known.add(ids)
            yield one

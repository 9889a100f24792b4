"""Prepared rows against the raw rows that they come from: what is trained is the response, all of it, and it ends once."""

from collections.abc import Callable, Collection, Mapping, Sequence
import itertools

import numpy as np

from jaxalign.checking.verdicts import Verdict, skipped, verdict
from jaxalign.data.raw import formats
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.records import Record
from jaxalign.data.rows.store import Prepared

Pieces = list[tuple[int, int, np.ndarray, np.ndarray]]  # (group, response, its tokens, which of them are trained)


def pieces(prepared: Prepared, groups: Sequence[int]) -> Pieces:
    """The valid responses of some groups."""
    return [
        (group, int(k), *prepared.groups.piece(group, 1 + int(k))) for group in groups for k in np.flatnonzero(prepared.groups.valid[group])
    ]


def end_once(responses: Pieces, stop_ids: Collection[int]) -> Verdict:
    """Every trained response ends in one stop token: none has two in a row, and some have one."""
    name, twice, ended = "responses end once", [], 0
    for group, k, tokens, scored in responses:
        trained = tokens[scored > 0].tolist()
        ended += bool(trained) and trained[-1] in stop_ids
        if any(first in stop_ids and second in stop_ids for first, second in itertools.pairwise(trained)):
            twice.append((group, k))
    found = f"{ended} of {len(responses)} end in a stop token, {len(twice)} have two in a row"
    cause = "the data's texts end in the stop token already, or the template writes it beside ours: see data.template and jaxalign.inspect"
    return verdict(
        name, not twice and ended > 0, found + (f", first response {twice[0][1]} of group {twice[0][0]}" if twice else ""), cause
    )


def trained_text(
    prepared: Prepared, responses: Pieces, rows, *, options: Mapping, stop_ids: Collection[int], decode: Callable, train_turns: str
) -> Verdict:
    """The trained tokens of a response decode to its own text, white space aside; of one that was cut, to its beginning.

    Args:
      rows: `data.raw.sources.Rows` of the set.
      options: of `formats.to_example`, as the set was made.
      decode: (tokens before, tokens) -> text.
    """
    name, wrong, compared = "trained tokens are the response", [], 0
    for group, k, tokens, scored in responses:
        number = int(prepared.source_rows[group])
        try:
            example = formats.to_example(Record(rows[number]), name=prepared.meta["format"], **options)
        except RowError:
            continue
        text = _squeezed(_of_turns(example.responses[k], train_turns)) if k < len(example.responses) else None
        if text is None:
            continue
        kept = [token for token in tokens[scored > 0].tolist() if token not in stop_ids]
        first = int(np.flatnonzero(scored)[0]) if scored.any() else 0
        before = [*prepared.groups.piece(group, 0)[0].tolist(), *tokens[:first].tolist()]
        shown, ended = _squeezed(decode(before, kept)), bool(scored[-1]) and int(tokens[-1]) in stop_ids
        compared += 1
        if shown != text and (ended or not text.startswith(shown) or not shown):
            wrong.append((number, shown))
    if not compared:
        return skipped(name, "no raw row could be compared")
    found = f"{compared - len(wrong)} of {compared} responses" + (f"; row {wrong[0][0]} trains {wrong[0][1][:60]!r}" if wrong else "")
    return verdict(name, not wrong, found, "the mask of trained tokens is shifted, or reaches into the prompt: see jaxalign.inspect")


def _of_turns(response, train_turns) -> str:
    if isinstance(response, str):
        return response
    spoken = [turn["content"] or "" for turn in response if turn["role"] == "assistant"]
    return "".join(spoken if train_turns == "all" else spoken[-1:])


def _squeezed(text: str) -> str:
    return "".join(text.split())

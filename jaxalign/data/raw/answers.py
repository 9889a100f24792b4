"""The answers of a row: one or a list of them, as text, messages, or objects that carry a rank or a score (Nectar, UltraFeedback)."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxalign.data.raw import notation
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.messages import Message
from jaxalign.data.raw.records import EMPTY, Record
from jaxalign.data.raw.turns import conversation, side

ANSWERS = ("completions", "responses", "completion", "response", "answers", "output", "outputs")
TEXTS = ("response", "answer", "completion", "text", "output", "content")
NUMBERS = {"rank": "ranks", "score": "scores", "overall_score": "scores", "rating": "scores"}  # field -> column; the first one is read


class Answers(NamedTuple):
    """The answers of a row and the column that they come from."""

    column: str
    sides: tuple[str | tuple[Message, ...], ...]


def answers_of(row: Record, column: str | None = None) -> Answers:
    """The answers of a row, of the first of `ANSWERS` that it has or of `column`.

    Ranks and scores that stand inside them become the row's columns `ranks` and `scores`, where it has none.

    Raises:
      RowError: there are none, or one is malformed.
    """
    column = column or row.first(ANSWERS) or next((name for name in ANSWERS if row.peek(name) is not None), None)
    if column is None:
        raise RowError("missing_column", "the row has no completion; set rename={'completion': ...} to the column that holds it.")
    value, several = row.get(column), several_in(row, column)
    if several is not None and None in several:
        raise RowError("empty_response", f"{column} has no text at place {several.index(None)} (from 0); give it one, or leave it out.")
    if several == []:
        raise RowError("empty_response", f"{column} is an empty list; give it answers, or leave the row out.")
    items = [_text(item, column, row) for item in ([value] if several is None else several)]
    for theirs, ours in NUMBERS.items():
        numbers = [item.numbers.get(theirs) for item in items]
        if any(number is not None for number in numbers):
            origin = f"{column}[].{theirs}"
            row.derive(ours, numbers, origin=origin)
            if row.origin(ours) != origin:
                row.derive(theirs, numbers, origin=origin)  # compared with the other, and with what else judges the answers
            if origin not in (row.origin(ours), row.origin(theirs)):
                row.fields.add(origin)
    return Answers(column, tuple(side(item.value, column, row) for item in items))


def several_in(row: Record, column: str) -> list | None:
    """The answers of a column that holds a list of them, also one written as text; None where it holds one. It does not count as read."""
    value = row.peek(column) if column.endswith("s") else None
    value = notation.read_list(value) if isinstance(value, str) else value
    return list(value) if isinstance(value, (list, tuple)) else None


def of_one_kind(prompt, sides: tuple) -> tuple[str | tuple[Message, ...], tuple]:
    """Prompt and answers as they are where all are text, else all as messages."""
    if isinstance(prompt, str) and all(isinstance(side, str) for side in sides):
        return prompt, sides
    asked = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    return asked, tuple(conversation(side) for side in sides)


class _Item(NamedTuple):
    value: object
    numbers: Mapping[str, object]


def _text(item, column, row):
    # an answer that is an object: its text, its rank and score; further fields are named as unread
    if not isinstance(item, Mapping) or {"role", "from"} & {key for key, value in item.items() if value is not None}:
        return _Item(item, {})
    field = next((name for name in TEXTS if item.get(name) not in EMPTY), None)
    if field is None:
        raise RowError("wrong_type", f"{column} holds {str(item)[:60]!r}; an answer that is an object needs one of {', '.join(TEXTS)}.")
    row.fields.update(f"{column}[].{key}" for key in item.keys() - {field, *NUMBERS} if item[key] not in EMPTY)
    return _Item(item[field], {name: item[name] for name in NUMBERS if item.get(name) is not None})

"""Questions with several answers, one of which is right: rows with `question`, `choices` and `answer`."""

from collections.abc import Iterable, Mapping
import string
from typing import NamedTuple

from jaxalign.data.raw.context import refuse_media
from jaxalign.data.raw.counts import Counts, RowError
from jaxalign.data.raw.messages import Message
from jaxalign.data.raw.records import EMPTY, Record
from jaxalign.data.raw.sources import Rows
from jaxalign.data.raw.turns import side_of

QUESTION, CHOICES, ANSWER = COLUMNS = ("question", "choices", "answer")


class Question(NamedTuple):
    """A question and its answers."""

    prompt: str | tuple[Message, ...]
    choices: tuple[str, ...]
    right: int  # the number of the right one


def read(rows: Rows, counts: Counts) -> Iterable[Question]:
    """The questions of rows in order; a row that holds none is left out and counted as dropped."""
    return rows.each(lambda row, number: of_row(row), counts)


def of_row(values: Mapping) -> Question:
    """The question of a raw row.

    `choices` are texts, or {"text": texts, "label": labels}, as ARC has them. `answer` is the label of the right choice, its text, its
    letter from A, or its number from 0, where no label is a number.

    Raises:
      RowError: a column is missing, choices or labels are equal, or the answer is none of the choices.
    """
    row = Record(values)
    refuse_media(row)
    for name in COLUMNS:
        if row.peek(name) in EMPTY:
            raise RowError("missing_column", f"the row has {row.given or 'no columns'} and no {name}; name it with rename.")
    choices, labels = _choices(row.get(CHOICES))
    return Question(side_of(row, QUESTION), choices, _number(row.get(ANSWER), choices, labels))


def _choices(value):
    texts, labels = (value.get("text"), value.get("label")) if isinstance(value, Mapping) else (value, None)
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise RowError("choices", f"choices are {str(value)[:40]!r}; give a list of texts, or of text and label.")
    if len(texts) < 2 or len(set(texts)) < len(texts):
        raise RowError("choices", f"there are {len(texts)} choices, {len(set(texts))} of them different; give at least 2, all different.")
    return tuple(texts), [] if labels is None else _labels(labels, len(texts))


def _labels(labels, count) -> list[str]:
    names = [str(label) for label in labels] if isinstance(labels, list | tuple) else []
    if len(names) != count or len(set(names)) < count:
        raise RowError("choices", f"the labels {str(labels)[:40]!r} of {count} choices; give each choice a label of its own, or none.")
    return names


def _number(answer, choices, labels) -> int:
    number = isinstance(answer, int) and not isinstance(answer, bool)
    if number and not any(label.isdecimal() for label in labels) and 0 <= answer < len(choices):
        return answer
    if number or isinstance(answer, str):
        for names in (labels, list(choices), list(string.ascii_uppercase[: len(choices)])):
            if str(answer) in names:
                return names.index(str(answer))
    shown = f"its label ({', '.join(labels)})" if labels else "its number from 0"
    raise RowError("answer", f"the answer {answer!r} is none of the {len(choices)} choices; give {shown}, its text or its letter.")

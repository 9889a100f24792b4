"""What a row looks like: the name of a format, and why."""

from collections.abc import Mapping

from jaxalign.data.raw import choices
from jaxalign.data.raw.answers import ANSWERS, NUMBERS, several_in
from jaxalign.data.raw.asked import ASKING
from jaxalign.data.raw.formats import FORMATS
from jaxalign.data.raw.labels import LABELS
from jaxalign.data.raw.records import Record
from jaxalign.data.raw.turns import CONVERSATIONS
from jaxalign.data.raw.typed import is_hh


def detect(row: Mapping) -> tuple[str, str]:
    """The name of the format that a row looks like, and why, as a sentence.

    Raises:
      ValueError: it looks like none; the message lists its columns and the formats.
    """
    has = {name for name, value in row.items() if value is not None}
    answers = next((name for name in ANSWERS if name in has), None) if has & set(ASKING) else None
    if {"chosen", "rejected"} <= has and not isinstance(row["chosen"], (bool, int)):
        return ("hh", "chosen and rejected begin with \\n\\nHuman:") if is_hh(row["chosen"]) else ("paired", "it has chosen and rejected")
    for name in LABELS:
        if name in has and (answers or has & set(CONVERSATIONS)):
            return "binary", f"it has {name}"
    sides = choices.sides_of(Record(row))
    if sides is not None:
        by = sides.choice or " and ".join(sides.columns_of_numbers)
        return "choice", f"it has {' and '.join(dict.fromkeys(sides.columns))}, of which {by} chooses the better one"
    several = several_in(Record(row), answers) if answers else None
    inside = {key for item in several or () if isinstance(item, Mapping) for key in item}
    kinds = {kind for name, kind in NUMBERS.items() if name in inside}
    if answers and (has & {"score", "scores"} or "scores" in kinds):
        return "scored", "it has score or scores"
    if answers and (has & {"rank", "ranks"} or "ranks" in kinds):
        return "ranked", f"it has {answers} with ranks, 1 or the lowest is best"
    if answers in ("responses", "answers") and several is not None:
        return "ranked", f"it has {answers}, taken as best first"
    for name in CONVERSATIONS:
        if name in has:
            return "messages", f"it has {name}"
    if answers:
        return "completion", f"it has {next(name for name in ASKING if name in has)} and {answers}"
    if "text" in has and isinstance(row["text"], str):
        return "text", "it has text"
    raise ValueError(
        f"the columns {Record(row).given} fit none of the formats {', '.join(FORMATS)}"
        + (" (a pair needs chosen and rejected)" if "chosen" in row else "")
        + "; set format, and rename={ours: theirs} to rename."
    )

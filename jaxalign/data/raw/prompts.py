"""Prompts of raw rows, for a model to answer: of rows that ask alone, and of rows of every format, whose answers are left out."""

from collections.abc import Iterable
import dataclasses

from jaxalign.data.raw import asked, detect
from jaxalign.data.raw.context import refuse_media, system_of, tools_of, with_system
from jaxalign.data.raw.counts import Counts, RowError
from jaxalign.data.raw.formats import to_example
from jaxalign.data.raw.messages import Message
from jaxalign.data.raw.records import EMPTY, Record
from jaxalign.data.raw.sources import Rows
from jaxalign.data.raw.turns import CONVERSATIONS, side_of

ASKING = (*asked.PROMPTS, "messages", "question", "text")  # columns that hold a prompt where the row has no answer
ID = "id"  # the column that names a row


@dataclasses.dataclass(frozen=True)
class Asked:
    """One prompt."""

    id: str | int  # the row's own, else its number
    prompt: str | tuple[Message, ...]
    tools: tuple[dict, ...] = ()


def read(rows: Rows, counts: Counts) -> Iterable[Asked]:
    """Yields the prompts of rows in order; a row without one is left out and counted as dropped."""
    for number in range(len(rows)):
        counts.read += 1
        row = rows.read(number)
        try:
            if isinstance(row, RowError):
                raise row
            yield of_row(row, number)
            counts.kept += 1
        except RowError as error:
            counts.add(error.rule, "dropped", number, str(error))


def of_row(values: dict, number: int) -> Asked:
    """The prompt of a raw row with this number.

    Raises:
      RowError: it has none, or one that cannot be read.
    """
    row = Record(values)
    own = row.get(ID)
    prompt, tools = _answered(row) if _has_answer(row) else _unanswered(row)
    if not (prompt.strip() if isinstance(prompt, str) else prompt and prompt[-1]["content"].strip()):
        raise RowError("empty_prompt", "the prompt is empty; give every row a prompt.")
    return Asked(own if isinstance(own, (str, int)) and own not in EMPTY else number, prompt, tools)


def _has_answer(row):
    try:
        name, _ = detect.detect(row)
    except ValueError:
        return False
    if name != "messages":
        return name != "text"
    turns = side_of(row, row.first(CONVERSATIONS))
    return not isinstance(turns, str) and bool(turns) and turns[-1]["role"] == "assistant"


def _answered(row):
    name, _ = detect.detect(row)
    if name == "messages":  # the last turn is what the model is to say
        turns = side_of(row, row.first(CONVERSATIONS))
        return _in_context(turns[:-1], row)
    example = to_example(row, name=name)
    return example.prompt, example.tools


def _unanswered(row):
    refuse_media(row)
    prompt = asked.prompt_of(row, ASKING)
    if prompt is None:
        raise RowError("missing_column", f"the row has {row.given or 'no columns'} and none of {', '.join(ASKING)}; rename its prompt.")
    return _in_context(prompt, row)


def _in_context(prompt, row):
    system = system_of(row)
    return prompt if system is None else with_system(prompt, system), tools_of(row)

"""Prompts of raw rows, for a model to answer: of rows that ask alone, and of rows of every format, whose answers are left out."""

from collections.abc import Iterable, Mapping
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
    answer: str | None = None  # the row's best one; None where it has none, or one of several turns
    columns: Mapping[str, object] = dataclasses.field(default_factory=dict, compare=False)  # the whole row


def read(rows: Rows, counts: Counts, *, numbers: Iterable[int] | None = None, **how) -> Iterable[Asked]:
    """Yields the prompts of rows in order; a row without one is left out and counted as dropped.

    Args:
      numbers: of the rows; None: all.
      how: as in `of_row`.
    """
    for number in range(len(rows)) if numbers is None else numbers:
        counts.read += 1
        row = rows.read(number)
        try:
            if isinstance(row, RowError):
                raise row
            yield of_row(row, number, **how)
            counts.kept += 1
        except RowError as error:
            counts.add(error.rule, "dropped", number, str(error))


def of_row(values: dict, number: int, *, format: str | None = None, **how) -> Asked:
    """The prompt of a raw row with this number.

    Args:
      format: of a row with an answer; None detects it.
      how: further options of `formats.to_example`.

    Raises:
      RowError: it has none, or one that cannot be read.
    """
    row = Record(values)
    own, name = row.get(ID), _format(row) if format in (None, "messages", "text") else format
    (prompt, tools), answer = _unanswered(row) if name is None else _answered(row, name, how)
    if not (prompt.strip() if isinstance(prompt, str) else prompt and prompt[-1]["content"].strip()):
        raise RowError("empty_prompt", "the prompt is empty; give every row a prompt.")
    return Asked(own if isinstance(own, (str, int)) and own not in EMPTY else number, prompt, tools, answer, values)


def _format(row):
    """The format of a row that has an answer; None of one that has none."""
    try:
        name, _ = detect.detect(row)
    except ValueError:
        return None
    if name != "messages":
        return None if name == "text" else name
    turns = side_of(row, row.first(CONVERSATIONS))
    return name if not isinstance(turns, str) and turns and turns[-1]["role"] == "assistant" else None


def _answered(row, name, how):
    if name == "messages":  # the last turn is what the model is to say
        turns = side_of(row, row.first(CONVERSATIONS))
        return _in_context(turns[:-1], row), turns[-1]["content"]
    example = to_example(row, name=name, **how)
    best = example.responses[max(range(len(example.rewards)), key=lambda k: example.rewards[k])]
    if not isinstance(best, str):
        best = best[0]["content"] if len(best) == 1 else None
    return (example.prompt, example.tools), best


def _unanswered(row):
    refuse_media(row)
    prompt = asked.prompt_of(row, ASKING)
    if prompt is None:
        raise RowError("missing_column", f"the row has {row.given or 'no columns'} and none of {', '.join(ASKING)}; rename its prompt.")
    return _in_context(prompt, row), None


def _in_context(prompt, row):
    system = system_of(row)
    return prompt if system is None else with_system(prompt, system), tools_of(row)

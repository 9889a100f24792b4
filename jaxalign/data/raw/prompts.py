"""Prompts of raw rows, for a model to answer: of rows that ask alone, and of rows of every format, whose answers are left out."""

from collections.abc import Iterable, Mapping
import dataclasses
from functools import partial
import math

from jaxalign.data.raw import asked, detect
from jaxalign.data.raw.context import refuse_media, system_of, tools_of, with_system
from jaxalign.data.raw.counts import Counts, RowError
from jaxalign.data.raw.examples import as_json
from jaxalign.data.raw.formats import to_example
from jaxalign.data.raw.messages import Message
from jaxalign.data.raw.records import EMPTY, Record
from jaxalign.data.raw.scores import Scoring
from jaxalign.data.raw.sources import Rows
from jaxalign.data.raw.turns import CONVERSATIONS, side_of
from jaxalign.data.raw.typed import hh_prompt

ASKING = (*asked.PROMPTS, "messages", "question", "text")  # columns that hold a prompt where the row has no answer
ID = "id"  # the column that names a row
SAMPLE = (ID, "sample", "prompt", "text")  # what a line of `generate` has
ANSWER = "answer"  # of a row with a question, as in GSM8K; beside choices it names one of them
# Rules about answers alone, and about what judges them: a prompt does without.
OF_ANSWERS = ("choice", "empty_response", "missing_score", "same_response", "score_range", "scores_against_order", "tie", "too_few")


@dataclasses.dataclass(frozen=True)
class Asked:
    """One prompt."""

    id: str | int  # the row's own, else its number
    prompt: str | tuple[Message, ...]
    tools: tuple[dict, ...] = ()
    answer: str | None = None  # the row's best one; None where it has no good one, or one of several turns
    columns: Mapping[str, object] = dataclasses.field(default_factory=dict, compare=False)  # the whole row
    number: int = dataclasses.field(default=0, compare=False)  # of the raw row, from 0


def read(rows: Rows, counts: Counts, *, numbers: Iterable[int] | None = None, **how) -> Iterable[Asked]:
    """The prompts of rows in order; a row without one is left out and counted as dropped.

    Args:
      numbers: of the rows; None: all.
      how: as in `of_row`.
    """
    return rows.each(partial(of_row, **how), counts, numbers=numbers)


def of_row(values: dict, number: int, *, format: str | None = None, **how) -> Asked:
    """The prompt of a raw row with this number. Where its answers break a rule of their own, the row has a prompt and no answer.

    Args:
      format: of a row with an answer; None detects it.
      how: further options of `formats.to_example`.

    Raises:
      RowError: it has none, or one that cannot be read.
    """
    if is_sample(values):
        why = "the row is a line of generate, whose prompt is as the model saw it"
        raise RowError("written_prompt", f"{why}; name the file that generate read.")
    row = Record(values)
    own, name = row.get(ID), _format(row) if format in (None, "messages", "text") else format
    (prompt, tools), answer = _unanswered(row) if name is None else _answered(row, name, how)
    if not (prompt.strip() if isinstance(prompt, str) else prompt and prompt[-1]["content"].strip()):
        raise RowError("empty_prompt", "the prompt is empty; give every row a prompt.")
    named = own if isinstance(own, str | int) and not isinstance(own, bool) and own not in EMPTY else number
    as_json([named, prompt, tools, answer])
    return Asked(named, prompt, tools, answer, values, number)


def is_sample(row: Mapping) -> bool:
    """Whether a raw row is a line of `generate`, whose prompt is written with a chat template already."""
    return all(name in row for name in SAMPLE)


def _format(row):
    """The format of a row that has an answer; None of one that has none."""
    try:
        name, _ = detect.detect(row)
    except ValueError:
        return None
    if name != "messages":
        return None if name == "text" else name
    column = row.first(CONVERSATIONS)
    turns = () if column is None else side_of(row, column)
    return name if not isinstance(turns, str) and turns and turns[-1]["role"] == "assistant" else None


def _answered(row, name, how):
    if name == "messages":  # the last turn is what the model is to say
        turns = side_of(row, row.first(CONVERSATIONS))
        return _in_context(turns[:-1], row), turns[-1]["content"]
    try:
        example = _example(row, name, how)
    except RowError as error:
        prompt = _before_answers(row, name) if error.rule in OF_ANSWERS else None
        if prompt is None or (isinstance(prompt, str) and hh_prompt(prompt) is not None):
            raise
        return _in_context(prompt, row), None
    best = max(range(len(example.rewards)), key=lambda k: example.rewards[k])
    return (example.prompt, example.tools), _text(example.responses[best]) if example.rewards[best] > 0 else None


def _example(row, name, how):
    scoring = how.get("scoring") or Scoring()
    try:
        return to_example(Record(row), name=name, **how)
    except RowError as error:
        if error.rule != "score_range" or scoring.declared:
            raise
        # the best answer is the same on every scale
        return to_example(Record(row), name=name, **{**how, "scoring": Scoring(transform="sigmoid")})


def _before_answers(row, name):
    prompt = asked.prompt_of(row, asked.BESIDE_CHOICES if name == "choice" else asked.BESIDE_ANSWERS)
    return prompt[:-1] if isinstance(prompt, tuple) and prompt and prompt[-1]["role"] == "assistant" else prompt


def _text(response):
    if isinstance(response, str):
        return response
    return response[0]["content"] if len(response) == 1 else None


def _unanswered(row):
    refuse_media(row)
    prompt = asked.prompt_of(row, ASKING)
    if prompt is None:
        asked.refuse_empty(row, ASKING)
        raise RowError("missing_column", f"the row has {row.given or 'no columns'} and none of {', '.join(ASKING)}; rename its prompt.")
    return _in_context(prompt, row), _known(row)


def _known(row):
    """The text of the column `answer`; None where it holds no text and no number, or stands beside choices."""
    value = row.get(ANSWER)
    if "choices" in row or isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    missing = isinstance(value, float) and not math.isfinite(value)
    return None if missing or not str(value).strip() else str(value)


def _in_context(prompt, row):
    system = system_of(row)
    return prompt if system is None else with_system(prompt, system), tools_of(row)

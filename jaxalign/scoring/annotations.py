"""Rewards of the responses of raw rows, and what becomes of rows by them: a column of scores, pairs with mended labels, new pairs.

A response of several turns is scored by its last one; the others belong to the prompt.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import re
from typing import Any, NamedTuple

import numpy as np

from jaxalign.data import progress
from jaxalign.data.raw import detect, prompts, survey
from jaxalign.data.raw.asked import BESIDE_CHOICES
from jaxalign.data.raw.choices import CHOICES
from jaxalign.data.raw.context import SYSTEM
from jaxalign.data.raw.counts import Counts, RowError
from jaxalign.data.raw.examples import Messages
from jaxalign.data.raw.formats import PAIRS, to_example
from jaxalign.data.raw.labels import LABELS
from jaxalign.data.raw.messages import TOOLS
from jaxalign.data.raw.prompts import ID, SAMPLE, Asked, is_sample
from jaxalign.data.raw.records import EMPTY, Record
from jaxalign.data.raw.scores import EVIDENCE_OF_ORDER, Scoring
from jaxalign.data.raw.sources import Rows
from jaxalign.data.raw.verdicts import JUDGES
from jaxalign.scoring.judge import Judge
from jaxalign.scoring.rewards import Prompt, Reward

SIDES = ("chosen", "rejected")
OF_ORDER = re.compile(r"(?<![a-z])(?:margin|gap|diff|difference|delta|strength|confidence|advantage|agreement)s?(?![a-z])", re.IGNORECASE)
OF_PROMPT = (ID, *prompts.ASKING, *BESIDE_CHOICES, *SYSTEM, *TOOLS)  # columns of a row that are its prompt, or belong to it
BATCH = 256  # responses that are scored between two steps of the progress bar


@dataclasses.dataclass(frozen=True)
class Judged:
    """A prompt with its responses, and the rows that they come from."""

    prompt: str | Messages | None
    responses: tuple[str | Messages, ...]
    rows: tuple[Mapping[str, Any], ...]  # raw: one for all responses, or one per response
    paired: bool  # response 0 is preferred to response 1
    asked: Mapping[str, Any]  # the columns that a reward may read
    carried: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # columns that go into a new row
    left: tuple[str, ...] = ()  # columns that do not, since they may be about the responses as they were
    tools: tuple[dict, ...] = ()


class Tally(NamedTuple):
    """What became of prompts."""

    kept: int  # as they were, or made
    turned: int
    ties: int
    missing: int  # without a score


def read(rows: Rows, counts: Counts, *, format: str | None) -> Iterator[Judged]:
    """The responses of rows; rows that break a rule of their format are dropped and counted.

    Args:
      rows: of any format of `data`.
      counts: is added to.
      format: of the rows; None: what each looks like.

    Raises:
      ValueError: the rows of choices leave open which answer they prefer.
    """
    base = survey.base_of(rows)
    return rows.each(lambda values, number: _judged(values, format, base), counts)


def read_samples(rows: Rows, asked: Rows | None, counts: Counts) -> Iterator[Judged]:
    """Yields the samples of each prompt, from lines of `generate`; those of an id that several prompts have are dropped and counted.

    Args:
      rows: the lines. Those of a prompt have one id; without `asked`, also one prompt, since several rows may have had this id.
      asked: the rows that the prompts came from; None: a prompt is the text that the model saw.
      counts: of the lines; is added to.

    Raises:
      ValueError: a line is no sample, or its prompt is not among those asked.
    """
    of_id = {} if asked is None else _by_id(asked)
    groups: dict[tuple[str | int, str | None], list[dict]] = {}
    for number in range(len(rows)):
        line = rows[number]
        if not is_sample(line):
            raise ValueError(f"{rows.name}: line {number} has no {', '.join(name for name in SAMPLE if name not in line)} of a sample.")
        for name, kinds in (("id", str | int), ("prompt", str), ("text", str)):
            if not isinstance(line[name], kinds):
                raise ValueError(f"{rows.name}: {name} of line {number} is {line[name]!r}, which no sample of generate has.")
        if asked is not None and line["id"] not in of_id:
            raise ValueError(f"{rows.name}: line {number} answers the prompt {line['id']!r}, which {asked.name} does not have.")
        counts.read += 1
        if len(several := of_id.get(line["id"], ())) > 1:
            which = ", ".join(str(prompt.number) for prompt in several)
            what = f"the line answers the prompt {line['id']!r}, and rows {which} of {asked.name} have this id"
            counts.add("same_id", "dropped", number, f"{what}; give each its own, and generate anew")
            continue
        groups.setdefault((line["id"], line["prompt"] if asked is None else None), []).append(line)
        counts.kept += 1
    for (key, _), lines in groups.items():
        (prompt,) = of_id.get(key, (Asked(key, lines[0]["prompt"]),))
        texts, left = tuple(line["text"] for line in lines), tuple(name for name in _filled(prompt.columns) if name not in OF_PROMPT)
        yield Judged(prompt.prompt, texts, tuple(lines), False, prompt.columns, {"id": key}, left, prompt.tools)


def score(judged: Sequence[Judged], reward: Reward, *, quiet: bool) -> list[np.ndarray]:
    """The reward of every response, float32[K] for each of the judged; NaN where it has none.

    Raises:
      ValueError: the reward reads a column that no row has.
    """
    reward.check([one.asked for one in judged])
    flat = [(*_turned(one.prompt, response), one.asked) for one in judged for response in one.responses]
    scores = np.zeros(len(flat), np.float32)
    with progress.bar(len(flat), f"scoring with {reward.name}", quiet=quiet) as advance:
        for start in range(0, len(flat), BATCH):
            part = flat[start : start + BATCH]
            scores[start : start + BATCH] = reward(*zip(*part, strict=True))
            advance(len(part))
    return np.split(scores, np.cumsum([len(one.responses) for one in judged])[:-1]) if judged else []


def judge_pairs(judged: Sequence[Judged], judge: Judge) -> np.ndarray:
    """The verdicts of a judge on pairs, 1 where it prefers response 0: float64[n]. Shows its progress."""
    pairs = [[_turned(one.prompt, response) for response in one.responses] for one in judged]
    return judge([first[0] for first, _ in pairs], [first[1] for first, _ in pairs], [second[1] for _, second in pairs], quiet=False)


def check_free(judged: Sequence[Judged], name: str) -> None:
    """Raises ValueError where a row has a column already that `with_column` would add; before anything is scored."""
    for one in judged:
        new = _sides(name) if _is_pair(one) else [name]
        if taken := next((column for row in one.rows for column in new if column in row), None):
            raise ValueError(f"the rows have a column {taken!r} already; name another with --column.")


def check_written(judged: Sequence[Judged], file: str, *, carried: bool) -> None:
    """Raises ValueError where a line of JSON cannot hold a column of the rows; before anything is scored.

    Args:
      file: what the rows come from, for the message.
      carried: the columns that go into new rows are written, and not the rows as they are.
    """
    for column, value in ((key, value) for one in judged for row in ([one.carried] if carried else one.rows) for key, value in row.items()):
        try:
            json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{file}: the column {column!r} cannot be written as JSON: {error}. Give a file without it.") from error


def with_column(judged: Judged, scores: np.ndarray, name: str) -> list[dict]:
    """The raw rows with their scores: NAME_chosen and NAME_rejected of a pair, else NAME, a list where a row has several responses."""
    numbers = [None if np.isnan(score) else float(score) for score in scores]
    if len(judged.rows) == len(numbers) and not judged.paired:
        added = [{name: number} for number in numbers]
    elif _is_pair(judged):
        added = [dict(zip(_sides(name), numbers, strict=True))]
    else:
        added = [{name: numbers}]
    return [{**row, **columns} for row, columns in zip(judged.rows, added, strict=True)]


def relabelled(judged: Sequence[Judged], verdict: np.ndarray, scores: Sequence[np.ndarray] | None, name: str) -> tuple[list[dict], Tally]:
    """Pairs whose better response is the one that a verdict prefers, as rows of format "paired", and what became of them.

    Args:
      judged: pairs.
      verdict: of each: 1 leaves it, 0 turns it around, 0.5 is a tie, NaN is none; the last two leave no row.
      scores: of the two responses, kept as NAME_chosen and NAME_rejected; None: there are none.
      name: of the columns of scores.
    """
    rows = [
        _pair(one, *((0, 1) if better == 1 else (1, 0)), None if scores is None else scores[number], name)
        for number, (one, better) in enumerate(zip(judged, verdict, strict=True))
        if better in (0, 1)
    ]
    return rows, Tally(*(int((verdict == case).sum()) for case in (1, 0, 0.5)), int(np.isnan(verdict).sum()))


def best_and_worst(judged: Sequence[Judged], scores: Sequence[np.ndarray], name: str, *, margin: float) -> tuple[list[dict], Tally]:
    """The best and the worst response of each prompt, as rows of format "paired" with their scores, and what became of the prompts.

    Responses without a score do not count; of equal ones the first does.

    Args:
      judged: prompts with their responses.
      scores: of each response.
      name: of the columns of scores.
      margin: best and worst are a tie where their scores differ by no more.
    """
    rows, ties, missing = [], 0, 0
    for one, own in zip(judged, scores, strict=True):
        if np.isfinite(own).sum() < 2:
            missing += 1
            continue
        best, worst = int(np.nanargmax(own)), int(np.nanargmin(own))
        if own[best] - own[worst] <= margin:
            ties += 1
        else:
            rows.append(_pair(one, best, worst, own, name))
    return rows, Tally(len(rows), 0, ties, missing)


def left_out(judged: Sequence[Judged], what: str) -> list[str]:
    """A line that names the columns which new rows do not have, after `what` these are; none where they have all."""
    columns = collections.Counter(column for one in judged for column in one.left).most_common()
    names = ", ".join(f"{column} ({count:,} rows)" for column, count in columns)
    return [f"{what}: {names}"] if names else []


def _is_pair(judged):
    return judged.paired and len(judged.responses) == 2


def _sides(name):
    return [f"{name}_{side}" for side in SIDES]


def _pair(judged, better, worse, scores, name):
    sides = {"chosen": judged.responses[better], "rejected": judged.responses[worse]}
    numbers = {} if scores is None else dict(zip(_sides(name), (float(scores[better]), float(scores[worse])), strict=True))
    tools = {"tools": list(judged.tools)} if judged.tools else {}
    return {**judged.carried, "prompt": judged.prompt, **sides, **tools, **numbers}


def _by_id(asked) -> dict[str | int, list[Asked]]:
    """id -> the prompts of the rows that have it, more than one where these differ; rows without a prompt are left out."""
    of_id: dict[str | int, list[Asked]] = {}
    for number in range(len(asked)):
        with contextlib.suppress(RowError):
            prompt = prompts.of_row(asked[number], number)
            same_id = of_id.setdefault(prompt.id, [])
            if prompt.columns not in [other.columns for other in same_id]:
                same_id.append(prompt)
    return of_id


def _filled(values):
    return [column for column, value in values.items() if value not in EMPTY]


def _judged(values, format, base):
    try:
        name = format or detect.detect(Record(values))[0]
    except ValueError as error:
        raise RowError("no_format", str(error)) from error
    # a pair is read whatever else judges it
    row = Record(values if name not in ("paired", "hh") else {key: value for key, value in values.items() if not _judges(key)})
    # and any score is accepted
    example = to_example(row, name=name, scoring=Scoring(transform="sigmoid") if name == "scored" else None, base=base)
    example = example if name in PAIRS else example.as_in_row()  # as the scores will stand beside them
    unread, count = row.unread(), len(example.responses)
    carried = {column: row.peek(column) for column in unread if column in row and not _about(column, row.peek(column), count)}
    filtered = [column for column in _filled(values) if column not in row]
    left = tuple(column for column in (*filtered, *unread) if column not in carried)
    return Judged(example.prompt, example.responses, (dict(values),), name in PAIRS, dict(values), carried, left, example.tools)


def _about(column, value, count):
    """Whether a column may be about one of `count` responses, or their order: by a name, or as a list with an item each."""
    if isinstance(value, Mapping):
        return _judges(column) or any(_about(str(key), inner, count) for key, inner in value.items())
    return _judges(column) or (isinstance(value, list | tuple) and len(value) == count > 1)


def _judges(column):
    """Whether a column may say which response is better, or by how much, or is about one of them."""
    found = EVIDENCE_OF_ORDER.search(column) or JUDGES.search(column) or OF_ORDER.search(column) or column in (*LABELS, *CHOICES)
    return column not in SIDES and bool(found)


def _turned(prompt: str | Messages | None, response: str | Messages) -> tuple[Prompt, str]:
    """(prompt, completion) as a reward takes them."""
    if isinstance(response, str):
        return prompt or "", response
    return [*(prompt or ()), *response[:-1]], response[-1]["content"]

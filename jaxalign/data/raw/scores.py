"""Numbers that a data set holds of its responses: scores, which become rewards in [0, 1], and columns kept as they are.

Ranges and weights of published work: UNA (arXiv 2408.15339), HelpSteer2 attributes and UltraFeedback ratings.
"""

from collections.abc import Collection, Sequence
import dataclasses
import itertools
import math
import re

import numpy as np

from jaxalign.data.raw import notation
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.records import Record

TRANSFORMS = ("linear", "sigmoid")
FLOAT32_MAX = float(np.finfo(np.float32).max)  # numbers of responses are stored as float32
EVIDENCE = re.compile(r"rank|score|rating|grade", re.IGNORECASE)  # in the name of a column: it orders answers; a model's reward need not
EVIDENCE_OF_ORDER = re.compile(rf"{EVIDENCE.pattern}|reward|vote|order", re.IGNORECASE)  # where nothing but their order judges the answers
ORDER = "the order of the answers"  # what ranks stand for where a row has none


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How the scores of a response become its reward.

    "linear" maps the range (worst, best), by default (0, 1), to 0 and 1: UltraFeedback has (1, 10). "sigmoid" takes logits of a reward
    model, of any size. With weights the score is their mean over the named attributes, weights summing to one: HelpSteer2 with range
    (0, 4) and helpfulness 0.65, correctness 0.8, coherence 0.45 is (0.65 h + 0.8 c + 0.45 k) / 7.6. UNA's text leaves the sum of the
    weights out; its code, like this, does not.

    Raises:
      ValueError: a range, transform or weight that is none.
    """

    range: tuple[float, float] | None = None  # (worst, best); the worst may be the larger number
    weights: tuple[tuple[str, float], ...] = ()  # (attribute, weight); none: the column score or scores
    transform: str = "linear"

    def __post_init__(self):
        if self.transform not in TRANSFORMS:
            raise ValueError(f"score_transform={self.transform!r} is not one of {', '.join(TRANSFORMS)}.")
        given = self.range if self.range is not None else (0, 1)
        if not isinstance(given, tuple) or not _finite(given) or not len(given) == len(set(given)) == 2:
            raise ValueError(f"score_range={self.range!r} must be (worst, best): two finite numbers that differ.")
        if self.range is not None and self.transform == "sigmoid":
            raise ValueError(f"score_range={self.range!r} with score_transform='sigmoid', which takes any number; leave one of them out.")
        if not _finite(weight for _, weight in self.weights) or any(weight <= 0 for _, weight in self.weights):
            raise ValueError(f"score_weights={dict(self.weights)!r} must be finite numbers above 0; leave an attribute out to ignore it.")

    @property
    def declared(self) -> bool:
        """Whether the source specifies how to read scores, so that pairs with scores use them."""
        return self.range is not None or bool(self.weights) or self.transform != "linear"

    @property
    def falls(self) -> bool:
        """Whether the lower score is the better one."""
        return self.range is not None and self.range[0] > self.range[1]

    def rewards(self, row: Record, *, count: int, sides: bool) -> tuple[float, ...]:
        """The rewards in [0, 1] of `count` responses; `sides`: of a pair, whose columns end in _chosen and _rejected.

        Raises:
          RowError: a score is missing, no number, or outside the range.
        """
        name = "scores" if row.peek("scores") is not None and not sides else "score"
        attributes = self.weights or ((name, 1.0),)
        columns = [[self._place(value) for value in numbers(row, name, count=count, sides=sides)] for name, _ in attributes]
        total = sum(weight for _, weight in attributes)
        means = [sum(w * v for (_, w), v in zip(attributes, values, strict=True)) / total for values in zip(*columns, strict=True)]
        return tuple(_sigmoid(mean) if self.transform == "sigmoid" else min(mean, 1.0) for mean in means)

    def _place(self, score):
        if self.transform == "sigmoid":
            return score
        worst, best = (0.0, 1.0) if self.range is None else self.range
        low, high = sorted((worst, best))
        if not low <= score <= high:
            way = "set score_range to the worst and the best possible score" if self.range is None else "check score_range"
            raise RowError("score_range", f"score {score} is outside [{low}, {high}]; {way}.")
        return abs(score - worst) / (high - low)


def numbers(row: Record, name: str, *, count: int, sides: bool, kept: bool = False) -> tuple[float, ...]:
    """The numbers of column `name` for `count` responses: one number, or a list of them; `sides`: NAME_chosen and NAME_rejected.

    `kept`: the name comes from keep_columns, and True and False are 1 and 0. Numbers may be written as text, as in csv files.

    Raises:
      RowError: rule "missing_score" where there is none, "wrong_type" where it is no finite number, or their count is another.
    """
    if sides:
        values = [row.get(f"{name}_chosen"), row.get(f"{name}_rejected")]
    else:
        values = listed(row.get(name))
    if any(value is None for value in values):
        wanted = f"{name}_chosen and {name}_rejected" if sides else name
        names = "COLUMN of COLUMN_chosen and COLUMN_rejected" if sides else "a column of the row"
        way = f"keep_columns names {names}" if kept else "name it with rename"
        raise RowError("missing_score", f"the row needs a number in {wanted} and has {row.given}; {way}.")
    if len(values) != count:
        raise RowError("wrong_type", f"{count} completions have {len(values)} {name}; each needs one.")
    read = [float(value) if kept and isinstance(value, bool) else number(value) for value in values]
    for value, raw in zip(read, values, strict=True):
        if value is None:
            raise RowError("wrong_type", f"{name} {repr(raw)[:40]} is not a finite number that float32 holds.")
    return tuple(float(value) if kept else value for value in read)


def listed(value) -> list:
    """The items of a column that holds a list, also one written as text, or the value itself as the only one."""
    if isinstance(value, str):
        items = notation.read_list(value)
        return [value] if items is None else items
    return list(value) if isinstance(value, Sequence) else [value]


def number(value) -> float | int | None:
    """A number, also one written as text; None for what is none, is not finite, or overflows float32. True and False are no numbers."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -FLOAT32_MAX <= value <= FLOAT32_MAX else None


def against_order(row: Record, scoring: Scoring, leave: Collection[str] = ()) -> None:
    """Raises RowError (rule "scores_against_order") where a pair's own numbers show that `rejected` is the better one.

    Numbers of a pair are two columns such as score_chosen and score_rejected, or chosen-rating and rejected-rating; of ranks the lower is
    better, and of scores too where the range says so. `leave`: names, without their side, of columns that mean something else here.
    """
    for name in row:
        other = name.replace("chosen", "rejected")
        kind = EVIDENCE.search(name)
        if other == name or other not in row or kind is None or name.replace("chosen", "").strip("_-. ") in leave:
            continue
        chosen, rejected = number(row[name]), number(row[other])
        if chosen is None or rejected is None:
            continue
        theirs = [row.origin(column) for column in (name, other)]
        if chosen == rejected:
            row.changed["equal_scores"] = f"{theirs[0]} and {theirs[1]} are both {chosen:g}: they prefer neither answer of the pair"
        lower_is_better = kind[0].lower() == "rank" or scoring.falls
        if chosen != rejected and (chosen > rejected) == lower_is_better:
            raise RowError(
                "scores_against_order",
                f"{theirs[0]} of the chosen answer is {chosen:g} and {theirs[1]} of the rejected one is {rejected:g}, so that rejected is "
                "the better one; leave the row out, use feedback='score', or leave the numbers out with "
                f"rename={dict.fromkeys(theirs)}.",
            )


def lists_against_order(row: Record, scoring: Scoring, *, by: str, count: int, leave: Collection[str] = ()) -> None:
    """Raises RowError (rule "scores_against_order") where a list of numbers orders two of `count` answers the other way round than `by`.

    `by` is the column that judges them; where the order of the answers alone does, rewards of a model count as well. `leave`: columns that
    mean something else here.
    """
    places = _ascending(row, by, scoring, count)
    kinds = EVIDENCE_OF_ORDER if row.origin(by) == ORDER else EVIDENCE
    for name in row:
        others = _ascending(row, name, scoring, count) if kinds.search(name) and name not in (by, *leave) else None
        if places is None or others is None:
            continue
        row.get(name)  # it is read
        for i, k in itertools.combinations(range(count), 2):
            if (places[i] - places[k]) * (others[i] - others[k]) < 0:
                theirs = [row.origin(column) for column in (by, name)]
                raise RowError(
                    "scores_against_order",
                    f"{theirs[0]} and {theirs[1]} order answers {i} and {k} (from 0) the other way round: {theirs[1]} are "
                    f"{abs(others[i]):g} and {abs(others[k]):g}; mend the numbers, leave the row out, or leave a column out with rename.",
                )


def _ascending(row, name, scoring, count):
    # the numbers of a column, so that the higher is the better; None where it does not have one per answer
    values = [number(value) for value in listed(row.peek(name))]
    falls = scoring.falls or "rank" in name.lower() or "order" in name.lower()
    return None if len(values) != count or None in values else [-value if falls else value for value in values]


def _finite(values):
    return all(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values)


def _sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

"""One look over the judgements of a set before it is made: what a forgotten setting would get wrong row by row without an error.

Scores outside the range would drop most rows and train the worst as the best; labels or choices that are counted otherwise than supposed
would turn judgements around.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
import contextlib

from jaxalign.data.raw import choices
from jaxalign.data.raw.answers import answers_of
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.labels import LABELS, WORDS, word_of
from jaxalign.data.raw.records import Record
from jaxalign.data.raw.scores import Scoring, listed, number
from jaxalign.data.raw.sources import Rows

FEW = 0.01  # share of rows whose judgement may be odd: they are dropped and counted, row by row
SHOWN = 6
SIGNED_ROWS = 10  # of a preference around 0, in one of which the first answer is the better one


def check(rows: Rows, *, format: str, scoring: Scoring, feedback: str | None) -> int | None:
    """The number of the first answer in the choices of a set of format "choice", 0 or 1; None for other sets.

    Raises:
      ValueError: labels, scores or choices are not what the settings suppose, or choices leave open which answer they name; the message
        lists them.
    """
    if format == "binary":
        _check_labels(rows)
    if format == "scored" or feedback == "score" or scoring.declared:
        _check_scores(rows, format, scoring)
    return base_of(rows) if format == "choice" else None


def _records(rows: Rows) -> Iterator[Record]:
    for i in range(len(rows)):
        row = rows.read(i)
        if not isinstance(row, RowError):
            yield Record(row)


def _spread_out(rows: Rows, format: str) -> Iterator[Record]:
    # with the numbers that stand inside answers, or beside two of them, as columns
    for record in _records(rows):
        with contextlib.suppress(RowError):
            choices.to_pair(record, base=None) if format == "choice" else answers_of(record)
        yield record


def _check_labels(rows):
    values = Counter(word_of(row[name])[:20] for row in _records(rows) if (name := row.first(LABELS)))
    shown = ", ".join(f"{value!r} ({count:,} rows)" for value, count in values.most_common(SHOWN))
    unknown = sum(count for value, count in values.items() if value not in WORDS)
    if unknown > FEW * values.total():
        raise ValueError(
            f"the labels of {rows.name} are {shown}; known are {', '.join(WORDS)}. Write true and false, or use format 'scored' with "
            "score_range=(worst, best) for grades."
        )
    if "-1" in values and "0" in values:
        raise ValueError(
            f"the labels of {rows.name} are {shown}: is 0 bad or neither? Leave the rows of one of them out, or use format 'scored' with "
            "rename={'score': 'label'} and score_range=(-1, 1)."
        )


def _check_scores(rows, format, scoring):
    if scoring.transform == "sigmoid":
        return
    names = [name for name, _ in scoring.weights] or ["score"]
    scores = [score for row in _spread_out(rows, format) for name in names for score in _scores(row, name)]
    low, high = sorted(scoring.range or (0, 1))
    outside = sum(not low <= score <= high for score in scores)
    if not outside or (scoring.range is not None and outside <= FEW * len(scores)):
        return
    span = f"the scores of {rows.name} go from {min(scores):g} to {max(scores):g}, {outside:,} of {len(scores):,} outside"
    if scoring.range is None:
        raise ValueError(
            f"{span} [0, 1], and no score_range says what the worst and the best possible score are. Set score_range=(worst, best) of the "
            f"source, as ({min(scores):g}, {max(scores):g}), or score_transform='sigmoid' for the logits of a reward model."
        )
    raise ValueError(f"{span} score_range={scoring.range}: it must be the worst and the best possible score.")


def _scores(row, name):
    # the numbers of a row in a column, of a list, of a pair, or inside its answers
    for column in (name, f"{name}s", f"{name}_chosen", f"{name}_rejected"):
        with contextlib.suppress(RowError):
            yield from (number(item) for item in listed(row.get(column)) if number(item) is not None)


def _check_signed(rows, seen):
    for name, values in seen.items():
        if name in choices.SIGNED and values.total() >= SIGNED_ROWS and min(values) >= 0:
            raise ValueError(
                f"{name} of {rows.name} goes from {min(values):g} to {max(values):g}; below 0 it prefers the first answer, above 0 the "
                "second, and no row is below: is the scale another one? Write chosen and rejected instead."
            )


def base_of(rows: Rows) -> int | None:
    """The number of the first answer in the choices of a set, 0 or 1; None where no row chooses by a number.

    Raises:
      ValueError: the rows leave it open.
    """
    seen_in, named = defaultdict(Counter), set()
    for row in _records(rows):
        sides = choices.sides_of(row)
        place = None if sides is None or sides.choice is None else number(row[sides.choice])
        if place is not None:
            seen_in[sides.choice][place] += 1
            named.add(sides.base)
    _check_signed(rows, seen_in)
    counted = {name: values for name, values in seen_in.items() if name not in (*choices.SIGNED, *choices.FIRST_IS_ONE.values())}
    seen = sum(counted.values(), Counter())
    if not seen:
        return None
    bases = [base for base in (0, 1) if seen[base] + seen[base + 1] >= (1 - FEW) * seen.total()]
    if named != {None}:
        bases = [base for base in bases if named == {base}]
    elif bases == [0] and not counted.keys().isdisjoint(LABELS):
        bases = []  # 1 may be the second answer, or true of the first
    if len(bases) != 1:
        counts = ", ".join(f"{value:g} ({count:,} rows)" for value, count in seen.most_common(SHOWN))
        raise ValueError(
            f"the choices of {rows.name}, in {' and '.join(counted)}, are {counts}, which leave open which answer each names: 1 may be the "
            "first or the second. Name the answers by their numbers with rename, as response_0 and response_1, or response_1 and "
            "response_2; or write chosen and rejected, or the name of the better answer's column."
        )
    return bases[0]

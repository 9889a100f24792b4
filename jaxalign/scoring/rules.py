"""Rules that score the text of a completion: its length, an exact or a numeric answer, a regular expression.

A rule is made from its options and gives one number per sample, or a `Fault` where the row lacks what the rule compares with.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
import re
from typing import Any, NamedTuple

from jaxalign.scoring.faults import Fault

UNITS = {"characters": len, "words": lambda text: len(text.split())}
SIGN = r"[-+\u2212]"
DIGITS = r"(?=\.?\d)(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d*)(?P<rest>\.\d+)?"  # 1,234.5 and .5
EXPONENT = rf"(?:[eE](?P<exponent>{SIGN}?\d{{1,9}})(?!\w))?"  # as Python writes a large float; a decimal has no larger one
NUMBER = re.compile(rf"(?<![\w.])(?P<sign>{SIGN}?)\$?(?P<inner>{SIGN}?){DIGITS}{EXPONENT}")
MARK = "####"  # before the answer in GSM8K (arXiv 2110.14168)
BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")


class Rule(NamedTuple):
    """How samples are scored, and the columns of their prompts' rows that this reads."""

    score: Callable[[Sequence, Sequence[str], Sequence[Mapping]], Sequence[float | Fault]]  # (prompts, completions, metadata)
    columns: tuple[str, ...] = ()
    parts: tuple[Callable, ...] = ()  # rewards that it sums
    remarks: Callable[[], Mapping[str, str]] = dict  # kind -> what else is to be told of the calls so far
    ready: Callable[[], None] = lambda: None  # raises ValueError where samples cannot be scored at all
    writes_prompt: bool = False  # whether it writes the prompt with a chat template, or shows it to a judge: as it was asked, not rendered


def by_sample(one: Callable[[str, Mapping[str, Any]], float], columns: tuple[str, ...] = ()) -> Rule:
    """The rule that scores every (completion, row) by itself."""

    def guarded(completion, row):
        try:
            return one(completion, row)
        except Fault as fault:
            return fault

    return Rule(lambda prompts, completions, metadata: list(map(guarded, completions, metadata)), columns)


def length(*, unit: str = "characters", at_most: int | None = None) -> Rule:
    """The length of the completion.

    Args:
      unit: "characters" or "words" (between blanks).
      at_most: what is longer counts as this long; None counts all.
    """
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r} of reward 'length' is not one of {', '.join(UNITS)}.")
    if at_most is not None and at_most < 1:
        raise ValueError(f"at_most={at_most!r} of reward 'length' must be a whole number of {unit} from 1, or None.")
    return by_sample(lambda completion, row: float(min(UNITS[unit](completion), at_most or len(completion))))


def exact_match(*, column: str = "answer", strict: bool = False) -> Rule:
    """1 where the completion is the answer of the row, or one of several, else 0.

    Args:
      column: of the row, with a text, a number or a list of them.
      strict: compare as written; else case, blanks and a full stop at the end are not compared.
    """
    same = str if strict else _normal

    def score(completion, row):
        answers = gold(row, column)
        return float(same(completion) in {same(str(answer)) for answer in (answers if isinstance(answers, list | tuple) else [answers])})

    return by_sample(score, (column,))


def gsm8k(*, column: str = "answer", marked: bool = False) -> Rule:
    r"""1 where the final number of the completion equals that of the row's answer, else 0.

    The final number is the first after the last "####"; else that of the last \boxed{}; else the last number of the text. Blanks, "$"
    and thousands' commas are not compared, 5 and 5.00 are equal.

    Args:
      column: of the row, with a worked solution of GSM8K or the number alone.
      marked: only a number after "####" counts.
    """

    def score(completion, row):
        expected = final_number(str(gold(row, column)))
        if expected is None:
            raise Fault("no_number", f"{column} of the row, {str(row[column])[-40:]!r}, has no number.")
        return float((not marked or MARK in completion) and final_number(completion) == expected)

    return by_sample(score, (column,))


def having(rule: Rule, column: str) -> Rule:
    """The rule where a row has the column; a `Fault` of rule "missing_column" where it has not, or an empty one."""

    def score(prompts, completions, metadata):
        scores: list[float | Fault] = [_fault_of(row, column) for row in metadata]
        there = [number for number, fault in enumerate(scores) if fault is None]
        columns = ([values[number] for number in there] for values in (prompts, completions, metadata))
        for number, value in zip(there, rule.score(*columns) if there else (), strict=True):
            scores[number] = value
        return scores

    return rule._replace(score=score, columns=(*rule.columns, column))


def matches(
    prompts: Sequence, completions: Sequence[str], metadata: Sequence[Mapping], *, pattern: str, column: str | None = None
) -> list[float]:
    """1 where the pattern is found in a completion, else 0; with a column, where what its first group holds is the row's answer.

    A pattern without a group stands for its whole match. Every row has the column, see `having`.
    """
    expression = re.compile(pattern)
    found = [expression.search(completion) for completion in completions]
    if column is None:
        return [float(match is not None) for match in found]
    texts = [None if match is None else match[1 if expression.groups else 0] for match in found]
    pairs = zip(texts, [row[column] for row in metadata], strict=True)
    return [float(text is not None and _normal(text) == _normal(str(answer))) for text, answer in pairs]


def final_number(text: str) -> Decimal | None:
    """The number that a worked solution ends with, as `gsm8k` finds it; None where it has none."""
    if MARK in text:
        marked = NUMBER.search(text.rpartition(MARK)[2])
        return marked and _value(marked)
    boxed = BOXED.findall(text)
    numbers = list(NUMBER.finditer(boxed[-1] if boxed else text))
    return _value(numbers[-1]) if numbers else None


def gold(row: Mapping[str, Any], column: str) -> Any:
    """What a column of the row holds.

    Raises:
      Fault: the row lacks it, or it is empty (rule "missing_column").
    """
    if row.get(column) in (None, "", [], ()):
        raise Fault("missing_column", f"the row has no {column}, only {', '.join(map(str, row)) or 'its prompt'}.")
    return row[column]


def _fault_of(row, column) -> Fault | None:
    try:
        gold(row, column)
    except Fault as fault:
        return fault
    return None


def _normal(text):
    return " ".join(text.casefold().split()).removesuffix(".").strip()


def _value(match):
    negative = (match["sign"] + match["inner"]).replace("+", "") != ""
    exponent = (match["exponent"] or "0").replace("\u2212", "-")
    value = Decimal(f"{match['digits'].replace(',', '')}{match['rest'] or ''}e{exponent}")
    return -value if negative else value

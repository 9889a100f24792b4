"""Format "choice": two answers side by side, and a column that says which of them is better, rewritten to chosen and rejected.

| set | answers | column | meaning |
|---|---|---|---|
| PKU-SafeRLHF | response_0, response_1 | better_response_id, safer_response_id | 0 or 1 |
| summarize_from_feedback | a list of two | choice | 0 or 1 |
| HelpSteer3 | response1, response2 | overall_preference | -3 to 3; below 0: the first |
| HelpSteer2-preference | response_1, response_2 | preference_strength | -3 to 3; below 0: the first |
| SHP | human_ref_A, human_ref_B | labels | 1: the first |
| arena | conversation_a, conversation_b | winner | model_a, model_b, tie |
| arena 55k | response_a, response_b | winner_model_a, winner_model_b | the one that has a 1 |
| WebGPT | answer_0, answer_1 | score_0, score_1 | the higher score, where no column chooses |
"""

from collections.abc import Iterable
import re
from typing import NamedTuple

from jaxalign.data.raw import asked
from jaxalign.data.raw.answers import ANSWERS, answers_of, several_in
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.records import Record
from jaxalign.data.raw.scores import EVIDENCE, listed, number

TEXTS = ("response", "answer", "completion", "output", "human_ref", "summary", "conversation", "generation")
SUFFIXES = (("0", "1"), ("1", "2"), ("a", "b"), ("A", "B"))
BASES = {("0", "1"): 0, ("1", "2"): 1}  # suffixes -> the number of the first answer
CHOICES = (
    "choice", "better_response_id", "preferred", "winner", "preference", "overall_preference", "preference_strength", "safer_response_id",
    "label",
)  # fmt: skip
SIGNED = ("overall_preference", "preference_strength")  # below 0: the first is better
FIRST_IS_ONE = {"human_ref": "labels"}  # column of which 1 is the first answer and 0 the second
NUMBERS = {"winner_model": 1, "score": 1, "rating": 1, "reward": 1, "rank": -1}  # NAME_0 and NAME_1: 1: the higher is better, -1: the lower
TIES = ("tie", "both", "equal", "same", "neither", "none", "draw", "tie (bothbad)", "both_bad")


class Sides(NamedTuple):
    """Where the two answers of a row stand."""

    columns: tuple[str, str]  # equal: one column that holds a list of two
    suffixes: tuple[str, str]
    choice: str | None  # the column that chooses; None: `numbers` do
    numbers: str | None = None  # one of NUMBERS

    @property
    def base(self) -> int | None:
        """The number that the names of the columns give to the first answer, 0 or 1; None where they have no numbers."""
        return BASES.get(self.suffixes) if self.columns[0] != self.columns[1] else None

    @property
    def columns_of_numbers(self) -> list[str]:
        """The columns that decide where none chooses."""
        return [f"{self.numbers}_{suffix}" for suffix in self.suffixes]


def sides_in(names: set[str], lists: Iterable[str] = ()) -> Sides | None:
    """The sides of rows with these columns; `lists`: columns that hold two answers. None where there are none, or nothing chooses."""
    for text in TEXTS:
        for suffixes in SUFFIXES:
            for joint in ("_", "", " "):
                columns = tuple(f"{text}{joint}{suffix}" for suffix in suffixes)
                if not set(columns) <= names:
                    continue
                choice = next((name for name in (FIRST_IS_ONE.get(text), *CHOICES) if name in names), None)
                numbers = next((name for name in NUMBERS if {f"{name}_{suffix}" for suffix in suffixes} <= names), None)
                return Sides(columns, suffixes, choice, numbers) if choice or numbers else None
    choice = next((name for name in CHOICES if name in names), None)
    column = next((name for name in ANSWERS if name in lists), None)
    return Sides((column, column), ("0", "1"), choice) if choice and column else None


def sides_of(row: Record) -> Sides | None:
    """The sides of a row."""
    names = {name for name in row if row.first([name])}
    return sides_in(names, [name for name in ANSWERS if name in names and len(several_in(row, name) or ()) == 2])


def to_pair(row: Record, *, base: int | None) -> None:
    """Adds `prompt`, `chosen` and `rejected` to a row, and NAME_chosen, NAME_rejected for NAME_0, NAME_1 or numbers NAMEs of the answers.

    Args:
      base: 0 or 1: the number of the first answer in a column of numbers, which `survey.check` finds for a whole set; None: the number
        in the names of the answers, else 0.

    Raises:
      RowError: no two answers, no choice, or a tie.
    """
    sides = sides_of(row)
    if sides is None:
        raise RowError("missing_column", f"the row has {row.given}: no two answers with a column that chooses one.")
    first, second = sides.columns
    answers = answers_of(row, first).sides if first == second else (row[first], row[second])
    better = _better(row, sides, base)
    if row.first(("prompt",)) is None and row.first(asked.BESIDE_CHOICES):
        row.put("prompt", row[row.first(asked.BESIDE_CHOICES)])
    for name, place in (("chosen", better), ("rejected", 1 - better)):
        row.put(name, answers[place])
    _numbers(row, sides, better)


def place_of(value, sides: Sides, base: int | None) -> int:
    """0 or 1: the better answer that the value of a choice column names.

    Raises:
      RowError: it names neither (rule "choice"), or both (rule "tie").
    """
    place = int(value) if isinstance(value, bool) and sides.choice in FIRST_IS_ONE.values() else number(value)
    if place is None and isinstance(value, str):  # a number is one in text too: "1" is no name of response1
        word = value.strip().lower()
        if word in TIES:
            raise RowError("tie", f"{sides.choice} is {value!r}, so neither answer is preferred; leave the row out.")
        pairs = zip(sides.suffixes, sides.columns, strict=True)
        names = [{suffix.lower(), column.lower(), f"model_{suffix.lower()}"} for suffix, column in pairs]
        places = [place for place, known in enumerate(names) if word in known]
        if len(places) == 1:
            return places[0]
    if place is None:
        raise RowError("choice", f"{sides.choice} is {str(value)[:40]!r}; it must name one of the two answers.")
    if sides.choice in SIGNED:
        if place == 0:
            raise RowError("tie", f"{sides.choice} is 0, so neither answer is preferred; leave the row out.")
        return int(place > 0)
    if sides.choice in FIRST_IS_ONE.values():
        place, base = 1 - place, 0
    start = base if base is not None else sides.base or 0
    if place - start not in (0, 1):
        raise RowError("choice", f"{sides.choice} is {str(value)[:40]}; it must be {start} for the first answer or {start + 1}.")
    return int(place - start)


def _better(row, sides, base):
    if sides.choice is not None:
        return place_of(row[sides.choice], sides, base)
    names = sides.columns_of_numbers
    values = [number(int(row[name]) if isinstance(row[name], bool) else row[name]) for name in names]
    if None in values:
        raise RowError("missing_score", f"the two answers need numbers in {' and '.join(names)}.")
    if values[0] == values[1]:
        raise RowError("tie", f"both answers have {values[0]:g} in {' and '.join(names)}, so neither is preferred; leave the row out.")
    return int((values[1] - values[0]) * NUMBERS[sides.numbers] > 0)


def _numbers(row, sides, better):
    # NAME_0, NAME_1 and is_response_0_NAME: numbers of the two answers, by the name without their mark; lists NAMEs of two numbers likewise
    marks = [re.compile(rf"(?<![a-zA-Z0-9]){suffix}(?![a-zA-Z0-9])") for suffix in sides.suffixes]
    for name in list(row):
        value = row.peek(name)
        values = listed(value) if isinstance(value, list) or EVIDENCE.search(name) else []
        if name not in (*sides.columns, "chosen", "rejected") and len(values) == 2 and None not in map(number, values):
            _derive(row, name.removesuffix("s"), values, (name, name), better)
        parts = marks[0].split(name)
        other = sides.suffixes[1].join(parts)
        shared = re.sub("__+", "_", "".join(parts)).strip("_")
        if len(parts) == 2 and other in row and name not in sides.columns and shared:
            _derive(row, shared, [row.peek(name), row.peek(other)], (name, other), better)


def _derive(row, name, values, origins, better):
    for side, place in (("chosen", better), ("rejected", 1 - better)):
        row.derive(f"{name}_{side}", values[place], origin=row.origin(origins[place]))

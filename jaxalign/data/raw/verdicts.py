"""Columns that judge the answers of a row beside what the row is read as: one that contradicts refuses the row."""

from collections.abc import Collection
import re

from jaxalign.data.raw import scores
from jaxalign.data.raw.choices import CHOICES, TIES
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.labels import LABELS, WORDS, word_of
from jaxalign.data.raw.records import EMPTY, Record
from jaxalign.data.raw.scores import Scoring

JUDGES = re.compile(r"(?<![a-z])(?:chosen|rejected|choice|best|better|prefer\w*|winner|labels?)(?![a-z])", re.IGNORECASE)
PASSES = re.compile(r"(?:is_|was_)?(?:chosen|preferred|accepted|correct|best|better|good)", re.IGNORECASE)  # false: a bad answer
FAILS = re.compile(r"(?:is_|was_)?rejected", re.IGNORECASE)  # true: a bad answer
TIED = ("tie", "is_tie")
RANKS = "ranks of chosen and rejected"  # a column that holds their order


def refuse_other_judges(row: Record) -> None:
    """Raises RowError (rule "choice") where a column may say which answers are the better ones, and their order would be taken for that."""
    name = next((name for name in row if JUDGES.search(name) and row.peek(name) not in EMPTY), None)
    if name is not None:
        raise RowError(
            "choice",
            f"{name} is {str(row.peek(name))[:40]!r}, and answers without ranks count as best first; write ranks, or chosen and rejected, "
            f"or leave the column out with rename={{{name!r}: None}}.",
        )


def refuse_bad_answer(row: Record) -> None:
    """Raises RowError (rule "choice") where a column shows that the answer of a row, which is to be learnt, is a bad one."""
    for name in row:
        value = row.peek(name)
        good = WORDS.get(word_of(value)) if value not in EMPTY else None
        if "correct" in name.lower() and not isinstance(value, bool) and word_of(value) in ("0", "1"):
            good = None  # the number of the correct answer, or of correct ones
        if (good is False and PASSES.fullmatch(name)) or (good is True and FAILS.fullmatch(name)):
            raise RowError(
                "choice",
                f"{name} is {value!r}, so the answer is not one to learn; leave the row out, use format 'binary' with "
                f"rename={{'label': {name!r}}}, or leave the column out with rename={{{name!r}: None}}.",
            )


def refuse_tie(row: Record) -> None:
    """Raises RowError (rule "tie") where a column of a pair shows that neither answer is preferred."""
    for name in (*TIED, *CHOICES):
        value = row.peek(name)
        tied = WORDS.get(word_of(value)) if name in TIED else str(value).strip().lower() in TIES and isinstance(value, str)
        if value not in EMPTY and tied:
            raise RowError("tie", f"{name} is {value!r}, so neither answer is preferred; leave the row out.")


def against_pair(row: Record, scoring: Scoring, leave: Collection[str] = ()) -> None:
    """Raises RowError where a column shows that of `chosen` and `rejected` the second is the better one.

    Such are a choice of "rejected", a label that is false, and two numbers in the order of the answers, unless these have numbers of their
    own, as score_chosen, or another column holds two texts, whose numbers they may be. `leave`: columns that mean something else here.
    """
    for name in (*CHOICES, *LABELS):
        value = row.peek(name)
        bad = WORDS.get(word_of(value)) is False if name in LABELS else value is False or word_of(value) == "rejected"
        if value not in EMPTY and bad:
            raise RowError(
                "choice",
                f"{name} is {value!r} beside chosen and rejected: is rejected the better one? Leave the row out, or the column with "
                f"rename={{{name!r}: None}}.",
            )
    if not any(_is_text_list(row.peek(name)) or ("chosen" in name and scores.EVIDENCE.search(name)) for name in row):
        row.derive(RANKS, [1, 2], origin="the order of chosen and rejected")
        row.get(RANKS)  # it is read
        scores.lists_against_order(row, scoring, by=RANKS, count=2, leave=leave)


def _is_text_list(value):
    return isinstance(value, list) and len(value) > 1 and all(isinstance(item, str) for item in value)

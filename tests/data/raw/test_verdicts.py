"""A column that contradicts what a row is read as refuses the row by name; one that agrees, or means something else, does not."""

import pytest

from jaxalign.data.raw import detect, formats
from jaxalign.data.raw.counts import RowError

PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
TARGET = {"prompt": "p", "completion": "c"}


def convert(row):
    return formats.to_example(row, name=detect.detect(row)[0])


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("preferred", "rejected", "choice"),
        ("preferred", False, "choice"),
        ("label", 0, "choice"),
        ("label", "False", "choice"),
        ("tie", True, "tie"),
        ("is_tie", "yes", "tie"),
        ("winner", "Tie", "tie"),
        ("scores", [1, 5], "scores_against_order"),
        ("ratings", "[1, 5]", "scores_against_order"),
        ("ranks", [2, 1], "scores_against_order"),
    ],
)
def test_a_column_that_contradicts_a_pair_refuses_it(column, value, rule):
    with pytest.raises(RowError, match=column) as error:
        convert({**PAIR, column: value})
    assert error.value.rule == rule


@pytest.mark.parametrize(
    "beside",
    [
        {"preferred": "chosen"},
        {"preferred": 1},
        {"label": 1},
        {"tie": False},
        {"tie": 0},
        {"winner": "gpt-4"},
        {"scores": [5, 1]},
        {"scores": [1, 2, 3]},
        {"rating": [1, 5], "generations": ["r", "c"]},
        {"rating": [1, 5], "chosen_score": 5, "rejected_score": 1},
        {"rewards": [1, 5]},
    ],
    ids=str,
)
def test_a_column_that_agrees_with_a_pair_or_belongs_to_something_else_lets_it_pass(beside):
    assert convert({**PAIR, **beside}).responses == ("c", "r")


@pytest.mark.parametrize(
    ("column", "value"), [("chosen", False), ("is_chosen", "no"), ("rejected", True), ("accepted", 0), ("is_correct", False), ("best", "0")]
)
@pytest.mark.parametrize(
    "row",
    [TARGET, {"messages": [{"role": role, "content": "a"} for role in ("user", "assistant")]}, {"text": "a"}],
    ids=lambda row: "+".join(row),
)
def test_an_answer_that_a_column_calls_bad_is_not_learnt(row, column, value):
    with pytest.raises(RowError, match=rf"{column} is .*rename=\{{'{column}': None\}}") as error:
        convert({**row, column: value})
    assert error.value.rule == "choice"


@pytest.mark.parametrize(
    ("column", "value"), [("chosen", True), ("correct", 0), ("correct_answer", "no"), ("rejected", False), ("best", "c")]
)
def test_an_answer_that_no_column_calls_bad_is_learnt(column, value):
    assert convert({**TARGET, column: value}).responses == ("c",)


def test_two_answers_of_which_a_column_chooses_are_no_pair_where_another_calls_them_equal():
    row = {"prompt": "p", "response_a": "a", "response_b": "b", "winner": "a"}
    assert convert(row).responses == ("a", "b")
    with pytest.raises(RowError, match="tie is True") as error:
        convert({**row, "tie": True})
    assert error.value.rule == "tie"

"""Prompts for a model to answer, from rows that ask alone and from rows with answers."""

import json

import pytest

from jaxalign.data.raw import prompts, sources
from jaxalign.data.raw.counts import Counts, RowError

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "q"}, "q"),
        ({"question": "q"}, "q"),
        ({"text": "q"}, "q"),
        ({"instruction": "q", "input": "i"}, "q\ni"),
        ({"messages": [USER]}, (USER,)),
        ({"messages": [USER, ANSWER]}, (USER,)),
        ({"messages": [USER, ANSWER, USER]}, (USER, ANSWER, USER)),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "q"),
        ({"prompt": "q", "completion": "a", "label": True}, "q"),
        ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, (USER,)),
        ({"prompt": "q", "system": "s"}, ({"role": "system", "content": "s"}, USER)),
    ],
)
def test_the_prompt_of_a_row_is_what_stands_before_the_answer(row, prompt):
    asked = prompts.of_row(row, 3)
    assert (asked.id, asked.prompt, asked.tools, asked.columns) == (3, prompt, (), row)


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"prompt": "q"}, None),
        ({"messages": [USER, ANSWER]}, "a"),
        ({"messages": [USER, ANSWER, USER]}, None),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "a"),
        ({"prompt": "q", "responses": ["b", "a"], "scores": [0.2, 0.9]}, "a"),
        ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, "a"),
        ({"prompt": "q", "completion": "a", "label": True}, "a"),
        ({"question": "q", "answer": "48/2 = 24\n#### 24"}, "48/2 = 24\n#### 24"),  # the columns of GSM8K
        ({"prompt": "q", "answer": 24}, "24"),
        ({"question": "q", "answer": " "}, None),
        ({"question": "q", "answer": True}, None),
        ({"question": "q", "answer": float("nan")}, None),  # what tables hold where a value is missing
        ({"question": "q", "answer": 2.5}, "2.5"),
        ({"question": "q", "choices": ["a", "b"], "answer": 1}, None),
        ({"prompt": "q", "completion": "a", "label": False}, None),
        ({"prompt": "q", "completion": "a", "score": 0.0}, None),
        ({"prompt": "q", "completions": ["a", "b"], "scores": [1, 5]}, "b"),
        ({"prompt": "q", "completions": ["a", "b"], "scores": [0, 0]}, None),
        ({"prompt": [USER], "chosen": [ANSWER, USER, ANSWER], "rejected": [{**ANSWER, "content": "b"}]}, None),
    ],
)
def test_the_answer_of_a_row_is_its_best_one_where_it_is_one_text(row, answer):
    assert prompts.of_row(row, 0).answer == answer


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": ""},
        {"prompt": "q", "completion": "", "label": True},
        {"prompt": "q", "completions": ["a", ""], "scores": [0, 1]},
        {"prompt": "q", "completions": ["a", "b"], "scores": [1, None]},
        {"prompt": "q", "chosen": "a", "rejected": "a"},
        {"messages": [USER, {**ANSWER, "content": ""}], "label": True},
    ],
)
def test_where_the_answers_break_a_rule_the_prompt_stands_alone(row):
    asked = prompts.of_row(row, 0)
    assert asked.prompt in ("q", (USER,)) and asked.answer is None


def test_a_line_of_generate_is_no_prompt_since_its_template_would_be_written_twice():
    with pytest.raises(RowError, match="as the model saw it; name the file that generate read"):
        prompts.of_row({"id": "a", "sample": 0, "prompt": "<|user|>q", "text": "a"}, 0)


def test_answers_that_break_a_rule_do_not_hide_that_there_is_no_prompt():
    with pytest.raises(RowError, match="chosen and rejected are equal"):
        prompts.of_row({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: a"}, 0)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": ""}, "prompt is ''"),
        ({"prompt": None}, "prompt is None"),
        ({"messages": []}, r"messages is \[\]"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt is ''"),
        ({"prompt": "", "completion": "a"}, "prompt is ''"),
    ],
)
def test_an_empty_prompt_is_called_empty(row, column):
    with pytest.raises(RowError, match=f"the prompt is empty: {column}; give every row a prompt") as error:
        prompts.of_row(row, 0)
    assert error.value.rule == "empty_prompt"


def test_a_row_keeps_its_own_name():
    assert prompts.of_row({"prompt": "q", "id": "x7"}, 3).id == "x7"
    assert [prompts.of_row({"prompt": "q", "id": own}, 3).id for own in (7, True, float("nan"), "")] == [7, 3, 3, 3]  # a flag names nothing


@pytest.mark.parametrize(
    ("row", "rule"),
    [({"a": 1}, "missing_column"), ({"prompt": " "}, "empty_prompt"), ({"prompt": "q", "images": ["x"]}, "images"), ({}, "missing_column")],
)
def test_a_row_without_a_prompt_is_refused(row, rule):
    with pytest.raises(RowError) as error:
        prompts.of_row(row, 0)
    assert error.value.rule == rule


def test_rows_without_a_prompt_are_counted(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ({"prompt": "q"}, {"x": 1}, {"prompt": "r"})))
    counts = Counts()
    asked = list(prompts.read(sources.read({"path": str(file)}), counts))
    assert [(one.id, one.prompt) for one in asked] == [(0, "q"), (2, "r")]
    assert (counts.read, counts.kept, counts.rules["missing_column"].first_row) == (3, 2, 1)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a \ud83d"},
        {"messages": [{**USER, "content": "\ud83d"}]},
        {"prompt": "q", "id": "\ud83d"},
        {"text": "q", "answer": "\ud83d"},
    ],
)
def test_half_a_character_is_refused_by_name(row):
    with pytest.raises(RowError, match="half a character") as error:
        prompts.of_row(row, 0)
    assert error.value.rule == "unicode"

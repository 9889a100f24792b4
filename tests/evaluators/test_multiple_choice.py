"""Multiple choice: rows that hold a question, choices as rows of tokens, and the likeliest of them by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_data
import toys

from jaxalign.data.raw import multiple_choice as raw
from jaxalign.data.raw.counts import Counts, RowError
from jaxalign.data.raw.multiple_choice import Question
from jaxalign.data.text import render
from jaxalign.data.text.tokenizer import load
from jaxalign.evaluators import multiple_choice
from jaxalign.evaluators.multiple_choice import MultipleChoice
from jaxalign.types import Outputs, TrainState

CHOICES = ["red", "blue", "green"]
QUESTIONS = [Question("a", ("x", "yy"), 0), Question("b", ("zzz", "y"), 1), Question("c", ("x", "yy", "zzz"), 2)]


@pytest.mark.parametrize(
    ("row", "right"),
    [
        ({"choices": CHOICES, "answer": 1}, 1),
        ({"choices": CHOICES, "answer": "C"}, 2),
        ({"choices": CHOICES, "answer": "green"}, 2),
        ({"choices": ["B", "A"], "answer": "A"}, 1),  # its text rather than its letter
        ({"choices": {"text": CHOICES, "label": ["1", "2", "3"]}, "answer": "2"}, 1),
        ({"choices": {"text": CHOICES, "label": [1, 2, 3]}, "answer": "3"}, 2),
        ({"choices": {"text": CHOICES, "label": ["1", "2", "3"]}, "answer": 1}, 0),  # the label 1, not the number 1
        ({"choices": {"text": CHOICES, "label": ["a", "b", "c"]}, "answer": 1}, 1),
    ],
)
def test_the_right_choice_is_named_by_number_label_text_or_letter(row, right):
    texts = row["choices"]["text"] if isinstance(row["choices"], dict) else row["choices"]
    assert raw.of_row({"question": "q", **row}) == Question("q", tuple(texts), right)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"choices": CHOICES}, "missing_column"),
        ({"choices": CHOICES, "answer": 3}, "answer"),
        ({"choices": CHOICES, "answer": True}, "answer"),
        ({"choices": CHOICES, "answer": "D"}, "answer"),
        ({"choices": ["a"], "answer": 0}, "choices"),
        ({"choices": ["a", "a"], "answer": 0}, "choices"),
        ({"choices": "a, b", "answer": 0}, "choices"),
        ({"choices": ["a", " "], "answer": 0}, "choices"),
        ({"choices": {"text": ["a", "b"], "label": ["A", "B", "C"]}, "answer": "C"}, "choices"),
        ({"choices": {"text": CHOICES, "label": ["A", "A", "B"]}, "answer": "A"}, "choices"),
        ({"choices": {"text": CHOICES, "label": ["1", "2", "3"]}, "answer": 0}, "answer"),
    ],
)
def test_a_row_that_holds_no_question_is_refused(row, rule):
    with pytest.raises(RowError) as error:
        raw.of_row({"question": "q", **row})
    assert error.value.rule == rule


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "bytes"
    return load(tiny_data.write_tokenizer(folder, chat_template=tiny_data.CHATML))


def data_of(renderer, questions=QUESTIONS, counts=None, most_tokens=200):
    return multiple_choice.encoded(questions, renderer, counts or Counts(), most_tokens=most_tokens, name="q")


def test_choices_are_written_as_answers_without_the_stop_token(tokenizer):
    plain = data_of(render.make(tokenizer, template="plain")).groups
    assert bytes(plain.piece(0, 0)[0][1:].tolist()) == b"a" and bytes(plain.piece(0, 2)[0].tolist()) == b" yy"
    chat = data_of(render.make(tokenizer, template="auto")).groups
    assert bytes(chat.piece(0, 2)[0].tolist()) == b"yy" and len(chat.piece(0, 0)[0]) > 10
    assert plain.reward.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert plain.columns["bytes"].tolist() == [[1, 2, 1], [3, 1, 1], [1, 2, 3]]


def test_questions_that_are_too_long_are_counted(tokenizer):
    counts = Counts()
    counts.read, counts.kept = 4, 4
    data = data_of(render.make(tokenizer, template="plain"), [*QUESTIONS, Question("d" * 99, ("x", "y"), 0)], counts, most_tokens=50)
    assert len(data.groups) == 3 and (counts.kept, counts.rules["question_too_long"].rows) == (3, 1)
    with pytest.raises(ValueError, match="no question that can be asked"):
        data_of(render.make(tokenizer, template="plain"), most_tokens=2)


def answered(tokenizer, value):
    """The metrics where every token has a log-prob by its byte."""
    table = jnp.array([value.get(chr(byte), 0.0) if byte < 128 else 0.0 for byte in range(300)])

    def look(params, batch, step):
        return Outputs(jnp.where(batch.slots >= 0, table.at[batch.tokens].get(out_sharding=jax.typeof(batch.slots).sharding), 0.0))

    with jax.set_mesh(toys.mesh()):
        evaluation = MultipleChoice(look, {"toy": data_of(render.make(tokenizer, template="plain"))}, rows=2)
        found = evaluation.measure(TrainState(jnp.int32(0), {}, None, None, None)).estimates()
    assert sorted(found) == sorted(evaluation.names())
    return {name.removeprefix("multiple_choice/toy/"): one for name, one in found.items()}


@pytest.mark.parametrize(
    ("value", "right", "per_byte"),
    [
        ({"x": -1.0, "y": -2.0, "z": -3.0}, 2 / 3, 2 / 3),  # x (-1), y (-2), x
        ({"x": -4.0, "y": -3.0, "z": -2.0}, 2 / 3, 1 / 3),  # x (-4 against -6), y (-3 against -6), x; per byte y, z, z
        ({}, (1 / 2 + 1 / 2 + 1 / 3) / 3, (1 / 2 + 1 / 2 + 1 / 3) / 3),
    ],
)
def test_the_likeliest_choice_is_the_answer_and_equals_share(tokenizer, value, right, per_byte):
    found = answered(tokenizer, value)
    assert found["accuracy"].value == pytest.approx(right) and found["accuracy"].n == 3
    assert found["accuracy_per_byte"].value == pytest.approx(per_byte)
    assert found["chance"].value == pytest.approx(np.mean([1 / 2, 1 / 2, 1 / 3]))

"""The split into a training and a held-out side, and recipes that make no sense."""

import pytest

from jaxalign.data.raw.formats import Example
from jaxalign.data.raw.scores import Scoring
from jaxalign.data.rows import encode, shards

HALF = 0.5


def sides(prompts):
    return {shards.is_held_out(Example(prompt, ("answer",), (1.0,), False), HALF) for prompt in prompts}


@pytest.mark.parametrize("number", range(20))
def test_every_row_of_a_conversation_lies_on_one_side_as_text_and_as_messages(number):
    question = f"Question {number}?"
    turns = ({"role": "user", "content": question},)
    longer = (*turns, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": f"More {number}"})
    begun = f"\n\nHuman: {question}\n\nAssistant:"
    assert len(sides([question, turns, longer, begun, f"{begun} Yes.\n\nHuman: More {number}\n\nAssistant:"])) == 1


def test_other_text_is_one_question_as_a_whole():
    prompts = [f"Read this.\n\nHuman: the same\n\nNumber {i}" for i in range(20)]
    assert sides(prompts) == {True, False}


@pytest.mark.parametrize("score_range", [(1,), (1, 1), (1, 2, 3), (0, float("nan")), ("1", "5"), 5])
def test_a_score_range_that_is_none_is_refused(score_range):
    with pytest.raises(ValueError, match="score_range=.* must be .worst, best.: two finite numbers that differ"):
        shards.Recipe("scored", "tokenizer", "plain", encode.Limits(64, True), scoring=Scoring(score_range))


@pytest.mark.parametrize(
    ("format", "options", "words"),
    [
        ("messages", {"feedback": "pair"}, "feedback='pair' takes format paired, hh, choice, scored, ranked, not messages; leave it out"),
        ("scored", {"feedback": "label"}, "feedback='label' takes format paired, hh, choice, binary, not scored"),
        ("binary", {"scoring": Scoring(weights=(("a", 1.0),))}, "score_weights goes with format paired, hh, choice, scored"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(format, options, words):
    with pytest.raises(ValueError, match=words):
        shards.Recipe(format, "tokenizer", "plain", encode.Limits(64, True), **options)

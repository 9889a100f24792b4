"""Answers judged: rewards, verdicts, lines, and the names under which they stand; without a model."""

import math

import numpy as np
import pytest

from jaxalign.data.raw.counts import Counts, RowError
from jaxalign.data.raw.prompts import Asked
from jaxalign.evaluators import comparison, prompts
from jaxalign.evaluators.generation import Generation, Judging
from jaxalign.evaluators.voices import Answer, distinct
from jaxalign.reports import log
from jaxalign.scoring import rewards

ASKED = [Asked("a", "one", columns={"answer": "yes"}), Asked(7, "two", columns={"answer": "no"}, answer="no")]
TEXTS = [["yes", "no no no"], ["no", "no way"]]


class Voice:
    """Shows its prompts in brackets."""

    def shown(self, prompt):
        return f"[{ASKED[prompt].prompt}]"


def answers(texts):
    return [[Answer(text, np.arange(len(text.split()) + 1), "length" if "way" in text else "stop") for text in own] for own in texts]


def measured(judging, others=None, **how):
    generation = Generation(ASKED, judging, samples=2)
    return generation.measure(Voice(), answers(TEXTS), others and generation.others(*others), **how)


def test_the_metrics_are_means_over_answers_with_errors_over_prompts():
    found = measured(Judging({"exact_match": rewards.make("exact_match")})).estimates()
    assert found["generate/exact_match"] == found["generate/reward"] == (0.5, 0.0, 2)  # one of two answers is right, for both prompts
    assert found["generate/tokens"].value == (2 + 4 + 2 + 3) / 4
    assert found["generate/stopped"].value == 0.75
    assert found["generate/distinct_2"] == (0.75, pytest.approx(0.25), 2)  # 1/2 and 1, where a text has two words


def test_a_line_holds_what_was_asked_said_and_judged():
    lines = measured(Judging({"right": rewards.make("exact_match")}, "right"), ("chosen", [[None, None], ["no", "no"]])).lines
    assert lines[2] == {
        "id": 7, "sample": 0, "prompt": "[two]", "text": "no", "tokens": 2, "stop": "stop", "rewards": {"right": 1.0},
        "against": {"text": "no", "rewards": {"right": 1.0}, "from": "chosen"}, "verdict": 0.5,
    }  # fmt: skip
    assert (lines[0]["against"]["text"], lines[0]["verdict"], lines[3]["verdict"]) == (None, None, 0.0)


def test_prompts_without_another_answer_do_not_count():
    found = measured(Judging({"long": rewards.make("length")}, "long"), ("chosen", [[None, None], ["no", "no"]])).estimates()
    assert found["generate/win_rate"][::2] == (0.75, 1)


@pytest.mark.parametrize(("kl", "others"), [(None, None), ((np.ones(2), np.ones(2)), ("other", TEXTS))])
@pytest.mark.parametrize("named", [{}, {"long": "length"}, {"exact_match": "gsm8k"}, {"long": "length", "exact_match": "gsm8k"}])
def test_the_names_are_known_before_anything_is_said(named, kl, others):
    decides = sorted(named)[0] if named and others else None
    if others and not named:
        decides = lambda prompts, firsts, seconds: np.full(len(prompts), 0.5)  # noqa: E731
    judging = Judging({name: rewards.make(spec) for name, spec in named.items()}, decides)
    found = measured(judging, others, kl=kl).estimates()
    assert sorted(found) == sorted(judging.metrics(against=others is not None, kl=kl is not None))
    assert ("generate/reward" in found) == (len(named) == 1 or decides in named)


def test_a_judge_of_pairs_sees_only_answers_that_are_there():
    seen = []

    def judge(prompts, firsts, seconds):
        seen.append((prompts, firsts, seconds))
        return np.array([1.0, math.nan])

    found = measured(Judging({}, judge), ("chosen", [[None, None], ["x", "y"]]))
    assert seen == [(["two", "two"], ["no", "no way"], ["x", "y"])]
    assert found.estimates()["generate/win_rate"].value == 1.0 and [line["verdict"] for line in found.lines] == [None, None, 1.0, None]


def test_a_model_against_itself_wins_half_also_at_equal_length():
    found = measured(Judging({"long": rewards.make("length")}, "long"), ("reference", TEXTS)).estimates()
    assert found["generate/win_rate"].value == found["generate/win_rate_length_controlled"].value == 0.5


def test_answers_without_a_reward_are_left_out_of_its_mean(tmp_path):
    file = tmp_path / "odd.py"
    file.write_text("def odd(prompts, completions, metadata):\n    return [float('nan') if 'way' in c else len(c) for c in completions]\n")
    reward = rewards.make(f"{file}:odd")
    found = measured(Judging({"odd": reward}))
    assert found.estimates()["generate/reward"].value == (3 + 8 + 2) / 3
    assert found.lines[3]["rewards"] == {"odd": None} and "1 of 4 samples left out by not_finite" in reward.lines()[0]


@pytest.mark.parametrize(("text", "share"), [("a b c", 1.0), ("a b a b a b", 2 / 5), ("Go. go. Go.", 2 / 5), ("one", math.nan)])
def test_distinct_pairs_of_words(text, share):
    assert distinct(text) == pytest.approx(share, nan_ok=True)


class Renderer:
    """A token per character; of "bad" none."""

    def prompt_ids(self, prompt, tools):
        if prompt == "bad":
            raise RowError("template", "the template refuses it.")
        return [ord(letter) for letter in prompt]


class Speaker:
    renderer = Renderer()


def test_prompts_that_are_too_long_refused_or_asked_before_are_counted():
    counts = Counts()

    def asked():
        for number, prompt in enumerate(["one", "bad", "long prompt", "one", "two", "six"]):
            counts.read += 1
            yield Asked(f"p{number}", prompt, number=10 * number)

    kept = prompts.chosen(asked(), Speaker(), counts, limit=2, most_tokens=8)
    assert [one.id for one in kept] == ["p0", "p4"]
    assert {rule: found.first_row for rule, found in counts.rules.items()} == {"template": 10, "prompt_too_long": 20, "same_prompt": 30}
    assert {rule: found.rows for rule, found in counts.rules.items()} == {"template": 1, "prompt_too_long": 1, "same_prompt": 1}
    assert (counts.read, counts.kept) == (5, 2)


def test_without_any_prompt_there_is_nothing_to_answer():
    with pytest.raises(ValueError, match="no prompt to answer"):
        prompts.chosen([], Speaker(), Counts(), limit=None, most_tokens=8)


def test_a_checkpoint_beside_its_start():
    judging = Judging({"long": rewards.make("length")}, "long")
    generation = Generation(ASKED, judging, samples=2)
    others = generation.others("start", [["aa", "aa"], ["aa", "aa"]])
    before, after = (generation.measure(Voice(), answers(texts), others) for texts in ([["a", "aa"], ["a", "a"]], TEXTS))
    compared = comparison.compare(before, after, origin="start")
    written = compared.as_dict()
    assert written["checkpoint"]["generate/win_rate"]["value"] == 0.875 and written["start"]["generate/win_rate"]["value"] == 0.125
    assert written["change"]["generate/win_rate"]["value"] == 0.75
    low, high = written["intervals"]["generate/win_rate"]["wilson"]
    assert 0 < low < 0.875 < high <= 1 and written["intervals"]["generate/reward"]["change_bootstrap"]
    assert compared.sentences()[0].startswith("Against start it wins 87.5% on 2 prompts")


def test_of_a_single_prompt_no_spread_is_told():
    generation = Generation(ASKED[:1], Judging({"long": rewards.make("length")}, "long"), samples=2)
    others = generation.others("start", [["aa", "aa"]])
    compared = comparison.compare(None, generation.measure(Voice(), answers([["a", "aaa"]]), others), origin="start")
    first, second = compared.sentences()
    assert first.startswith("Against start it wins 50.0% on 1 prompt (95 % interval: 5.5% to 94.5% by Wilson)")
    assert second == "At equal length it wins 50.0%." and compared.as_dict()["intervals"]["generate/win_rate"]["bootstrap"] == [None, None]


def test_without_the_start_the_checkpoint_stands_alone():
    compared = comparison.compare(None, measured(Judging({})), origin=None)
    assert compared.as_dict().keys() == {"start", "checkpoint", "change"} and not compared.start and not compared.sentences()


def test_lines_are_written_as_they_are(tmp_path):
    log.write_lines(tmp_path / "new" / "step-3.jsonl", [{"text": "é\n"}, {"text": "b"}])
    assert (tmp_path / "new" / "step-3.jsonl").read_text(encoding="utf-8") == '{"text": "é\\n"}\n{"text": "b"}\n'

"""Rewards as functions: rules against known answers, functions of the user that fail in every way, and what a spec may say."""

import json
import math
from pathlib import Path
import re
import time

import numpy as np
import pytest

from jaxalign.scoring import asking, rewards
from jaxalign.scoring.rules import final_number

VECTORS = Path(__file__).parents[1] / "golden" / "vectors-policy-gradient.json"
SOLUTION = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nAltogether 48+24 = <<48+24=72>>72.\n#### 72"  # the form of GSM8K


def score(spec, completions, rows=None, prompts=None):
    reward = rewards.make(spec)
    rows = rows or [{}] * len(completions)
    return reward(prompts or ["What?"] * len(completions), completions, rows), reward


@pytest.mark.parametrize(
    "spec, completion, row, expected",
    [
        ("length", "añb c", {}, 5),
        (dict(kind="length", unit="words"), " one two\nthree ", {}, 3),
        (dict(kind="length", at_most=4), "123456", {}, 4),
        ("exact_match", " The  Cat. ", {"answer": "the cat"}, 1),
        ("exact_match", "the cats", {"answer": "the cat"}, 0),
        ("exact_match", "7", {"answer": 7}, 1),
        ("exact_match", "Mars", {"answer": ["venus", "mars"]}, 1),
        (dict(kind="exact_match", column="gold", strict=True), "Yes", {"gold": "yes"}, 0),
        ("gsm8k", "so 24 + 48 = 72.", {"answer": SOLUTION}, 1),
        ("gsm8k", "#### $72.00 in 2 months", {"answer": SOLUTION}, 1),
        ("gsm8k", r"\boxed{72}, since 1 + 71 is that", {"answer": "72"}, 1),
        ("gsm8k", "72 in May and 3 in June", {"answer": SOLUTION}, 0),
        ("gsm8k", "I do not know", {"answer": SOLUTION}, 0),
        (dict(kind="gsm8k", marked=True), "it is 72", {"answer": SOLUTION}, 0),
    ],
)
def test_rules_score_as_known(spec, completion, row, expected):
    scores, reward = score(spec, [completion], [row])
    assert scores.dtype == np.float32 and scores.tolist() == [expected] and not reward.lines()


@pytest.mark.parametrize(
    "text, expected",
    [("1,234,567", 1234567), ("-3", -3), ("5-3", 3), ("$-4.50", -4.5), ("-$4.5", -4.5), ("\u221212", -12), ("1, 2", 2), ("", None)]
    + [("so .5", 0.5), ("-$.25", -0.25), ("1e+20", 10**20), ("2.5E-1", 0.25), ("1e5x", 1), ("5. Ende", 5), ("v.5", None)]
    + [("x2 and v1.0", None), ("4,5 or 6,78", 78), ("#### 5 (of 7)", 5), ("#### none", None), (r"\boxed{3} \boxed{4}", 4), ("3.", 3)],
)
def test_final_numbers_are_read_as_people_write_them(text, expected):
    assert final_number(text) == expected


def test_a_regular_expression_is_searched_for_and_may_hold_the_answer():
    assert score("regex:(?i)sorry", ["I am Sorry.", "no"])[0].tolist() == [1, 0]
    spec = dict(kind="regex", pattern=r"answer is \((\w)\)", column="letter")
    assert score(spec, ["The answer is (B)", "The answer is (C)", "B"], [{"letter": "b"}] * 3)[0].tolist() == [1, 0, 0]


def test_a_row_without_the_column_that_a_rule_reads_has_no_score_and_is_counted():
    rows = [{"letter": "b"}, {"other": "b"}, {"letter": None}, {"letter": "c"}]
    for spec in (dict(kind="regex", pattern=r"\((\w)\)", column="letter"), dict(kind="exact_match", column="letter")):
        scores, reward = score(spec, ["(b)", "(b)", "(b)", "(b)"], rows)
        assert np.isnan(scores).tolist() == [False, True, True, False] and reward.faults.counts == {"missing_column": 2}
        assert "the row has no letter, only other" in reward.lines()[0]
        assert np.isnan(score(spec, ["(b)"], [{}])[0]).all()


def test_a_pattern_that_takes_for_ever_is_ended():
    start = time.monotonic()
    scores, reward = score(dict(kind="regex", pattern="(a+)+$", timeout_s=1.0), ["aa", "a" * 60 + "b"])
    assert scores[0] == 1 and math.isnan(scores[1]) and time.monotonic() - start < 20
    assert "1 of 2 samples left out by timeout" in reward.lines()[0]


FUNCTIONS = """
import ctypes, os, random, time

def words(prompts, completions, metadata, *, scale=1.0):
    print("this is no output")
    return [scale * len(text.split()) for text in completions]

def odd(prompts, completions, metadata):
    if "die" in completions:
        os._exit(3)
    if "hang" in completions:
        while True:
            time.sleep(1)
    if "hold" in completions:
        ctypes.PyDLL(None).sleep(1000)  # with the lock of the interpreter
    if "shape" in completions:
        return [[1.0]] * len(completions)
    if "text" in completions:
        return ["good"] * len(completions)
    return [float("nan") if text == "nan" else 1e300 if text == "huge" else row["gold"] for text, row in zip(completions, metadata)]

def noise(prompts, completions, metadata):
    if "raise" in completions:
        raise ValueError("no")
    return [float("nan") if text == "nan" else random.random() for text in completions]

def one_argument(prompts):
    return 1

def mean(prompts, completions, metadata):
    return [1.0]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FUNCTIONS)
    return path


def test_a_function_of_the_user_is_called_with_its_options_and_prints_no_output(file, capfd):
    spec = dict(kind="python", function=f"{file}:words", options=dict(scale=2.0))
    assert score(spec, ["a b", "c"])[0].tolist() == [4, 2]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "this is no output\n")


def test_several_processes_call_a_function_of_the_user_once(file, monkeypatch):
    sent, found = [], []
    monkeypatch.setattr("jax.process_count", lambda: 2)
    reward = rewards.make(f"{file}:noise")
    for number in (0, 1):
        monkeypatch.setattr("jax.process_index", lambda number=number: number)
        hear = (lambda x: sent.append(x) or x) if number == 0 else (lambda x: sent.pop(0))
        monkeypatch.setattr(asking.multihost_utils, "broadcast_one_to_all", hear)
        found.append(reward(["a"] * 3, ["fine", "raise", "nan"], [{}] * 3))
    assert not sent
    np.testing.assert_array_equal(*found)
    assert np.isfinite(found[0]).tolist() == [True, False, False]
    assert reward.faults.counts == {"exception": 2, "not_finite": 2}  # of both


@pytest.mark.parametrize(
    "text, rule, words",
    [("raise", "exception", r"KeyError: 'gold' \(.*mine.py, line 20\)"), ("nan", "not_finite", "its score is nan")]
    + [("huge", "not_finite", "1e\\+300"), ("die", "died", "exit code 3"), ("hang", "timeout", "more than 1 s")]
    + [("hold", "timeout", "more than 1 s"), ("shape", "wrong_shape", r"\(1, 1\) for 1 samples"), ("text", "wrong_type", "good")],
)
def test_a_sample_that_fails_is_named_and_counted_and_the_others_have_their_scores(file, text, rule, words):
    rows = [{"gold": 3.0}, {} if text == "raise" else {"gold": 4.0}, {"gold": 5.0}]
    spec = dict(kind="python", function=f"{file}:odd", timeout_s=1.0 if rule == "timeout" else 30.0)
    scores, reward = score(spec, ["fine", text, "fine"], rows, prompts=["a", [{"role": "user", "content": "q" * 60}], "c"])
    np.testing.assert_array_equal(scores, np.float32([3, math.nan, 5]))
    assert reward.faults.counts == {rule: 1} and reward.faults.asked == 3
    assert re.search(words, reward.lines()[0]) and f"the prompt '{'q' * 37}...'" in reward.lines()[0]


def test_a_configured_value_takes_the_place_of_a_missing_score(file):
    scores, reward = score(dict(kind="python", function=f"{file}:odd", fault_value=-1), ["nan", "fine"], [{"gold": 2.0}] * 2)
    assert scores.tolist() == [-1, 2] and "1 of 2 samples given -1 by not_finite" in reward.lines()[0]


SCORES = next(case for case in json.loads(VECTORS.read_text())["cases"] if case["id"] == "P1")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(mean=SCORES["inputs"]["reference_mean"]), "scores_bias_only"),
        (dict(mean=np.mean(SCORES["inputs"]["raw_scores"]), std=np.std(SCORES["inputs"]["raw_scores"])), "scores_zscore"),
        (dict(mean=1.5, std=4.125**0.5, clip=SCORES["inputs"]["clip"]), "scores_zscore_clipped"),
    ],
)
def test_the_golden_scores_come_out_on_their_scale(file, options, expected):
    rows = [{"gold": score} for score in SCORES["inputs"]["raw_scores"]]
    scores, reward = score(dict(kind="python", function=f"{file}:odd", fault_value=9, **options), ["fine"] * 4 + ["nan"], [*rows, {}])
    np.testing.assert_allclose(scores[:4], SCORES["expected"][expected], rtol=1e-6)
    assert scores[4] == 9  # as it is


def test_a_score_that_leaves_float32_on_its_scale_is_none(file):
    scores, reward = score(dict(kind="python", function=f"{file}:odd", std=1e-30), ["fine"] * 2, [{"gold": 1e10}, {"gold": 0.0}])
    assert np.isnan(scores[0]) and scores[1] == 0 and reward.faults.counts == {"not_finite": 1}


def test_a_function_that_gives_one_number_for_all_samples_is_told(file):
    scores, reward = score(f"{file}:mean", ["a", "b", "c"])
    assert scores.tolist() == [1, 1, 1] and not reward.faults.counts
    (line,) = reward.lines()
    assert "1 calls with several samples failed by wrong_shape" in line and "3 samples: " in line and "(1,) for 3 samples" in line
    assert list(reward.remarks().values()) == [line]


def test_a_sum_has_the_precision_and_the_range_of_its_weights():
    scores, reward = score(dict(kind="sum", of=dict(a=("length", 1e38), b=("length", -1e38))), ["abcdefgh"])
    assert scores.tolist() == [0] and not reward.lines()


def test_a_function_that_always_hangs_is_given_up(file):
    start = time.monotonic()
    scores, reward = score(dict(kind="python", function=f"{file}:odd", timeout_s=0.2), ["hang"] * 500, [{}] * 500)
    assert np.isnan(scores).all() and reward.faults.counts == {"timeout": 500} and time.monotonic() - start < 20


def test_a_sum_weighs_its_parts_and_lacks_what_a_part_lacks():
    spec = dict(kind="sum", of=dict(long=("length", 0.5), right=("exact_match", -2)))
    scores, reward = score(spec, ["abcd", "ab", "abc"], [{"answer": "abcd"}, {"answer": "x"}, {}])
    np.testing.assert_array_equal(scores, np.float32([0, 1, math.nan]))
    assert [line.partition(";")[0] for line in reward.lines()] == [
        f"reward {reward.name!r}: 1 of 3 samples left out by part",
        "reward 'exact_match': 1 of 3 samples left out by missing_column",
    ]


def test_a_column_that_no_row_has_is_an_error_before_anything_is_scored():
    reward = rewards.make(dict(kind="sum", of=dict(right=(dict(kind="gsm8k", column="anser"), 1.0))))
    reward.check([{"anser": "#### 1"}, {}])
    with pytest.raises(ValueError, match=r"reads the column 'anser' of the prompts' rows; they have answer \(did you mean answer\?\)"):
        reward.check([{"answer": "#### 1"}])
    with pytest.raises(ValueError, match="they have no column beside their prompt"):
        reward.check([{}])


def test_no_samples_have_no_scores_and_unequal_lists_are_an_error():
    reward = rewards.make("length")
    assert reward([], [], []).shape == (0,)
    with pytest.raises(ValueError, match="2 prompts, 1 completions and 1 rows"):
        reward(["a", "b"], ["c"], [{}])


@pytest.mark.parametrize(
    "spec, words",
    [
        ("lenght", r"did you mean length\?"),
        (7, "a text or a dict"),
        (dict(of=1), "is no reward"),
        (dict(kind="length", units="words"), r"no option 'units' \(did you mean unit\?\); it takes unit, at_most"),
        (dict(kind="length", unit=3), "unit=3 is int, not str"),
        (dict(kind="length", unit="tokens"), "'tokens' of reward 'length' is not one of characters, words"),
        (dict(kind="length", at_most=0), "at_most=0"),
        (dict(kind="length", fault_value=math.nan), "fault_value=nan is no finite number"),
        (dict(kind="length", fault_value=1e300), "no finite number of float32"),
        (dict(kind="length", fault_value=10**400), "no finite number of float32"),
        (dict(kind="length", std=0.0), "std=0.0 must be above 0"),
        (dict(kind="length", clip=-1), "clip=-1 must be above 0"),
        (dict(kind="length", mean=math.inf), "mean=inf is no finite number"),
        (dict(kind="length", mean=None), "mean=None is NoneType, not float"),
        (dict(kind="length", at_most=True), "at_most=True is bool, not int or None"),
        (dict(kind=["length"]), "is no reward"),
        (dict(kind="exact_match", column=""), "must be a text"),
        (dict(kind="regex", pattern="a", column=5), "column=5 is int, not str or None"),
        (dict(kind="python", function="mine.py:f", options=5), "options=5 is int, not a dict or None"),
        (dict(kind="python", function="mine.py:f", timeout_s=1e300), "at most 86,400"),
        (dict(kind="model", model=None), "model=None is NoneType, not str"),
        (dict(kind="sum", of=dict(a=("length", 10**400))), "finite number of float32"),
        (dict(kind="regex"), "needs pattern"),
        ("regex:", "must be a text"),
        ("regex:(", r"cannot be read"),
        (dict(kind="regex", pattern="a", timeout_s=0), "timeout_s=0"),
        ("mine.py", "not of the form FILE.py:NAME"),
        ("nowhere/mine.py:words", "no such file"),
        (dict(kind="sum", of={}), "must be a dict"),
        (dict(kind="sum", of=dict(a="length")), r"must be \(spec, weight\)"),
        (dict(kind="sum", of=dict(a=("length", "2"))), "weight of a is '2'"),
        (dict(kind="sum", of=dict(a=("lenght", 1))), r"did you mean length\?"),
    ],
)
def test_a_spec_that_cannot_be_is_an_error_with_the_way_out(spec, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        rewards.make(spec)


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("wrods", FUNCTIONS, r"has no function 'wrods'; it has words, odd, noise, one_argument, mean"),
        ("one_argument", FUNCTIONS, r"called as one_argument\(prompts, completions, metadata\)"),
        ("words", "import nothing_of_this_name", r"mine.py, line 1: ModuleNotFoundError"),
        ("words", "def words(:", r"mine.py, line 1: SyntaxError"),
        ("words", "raise SystemExit(0)", r"line 1: SystemExit"),
        ("words", "import os; os._exit(1)", "could not be loaded: its process ended with exit code 1"),
    ],
)
def test_a_file_without_the_function_is_an_error_before_anything_runs(tmp_path, name, text, words):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=words):
        rewards.make(f"{tmp_path / 'mine.py'}:{name}")


def test_the_content_of_a_reward_is_that_of_its_files(file):
    mine = f"{file}:words"
    before = rewards.content(mine), rewards.content(dict(kind="sum", of={"a": (mine, 1.0), "b": ("length", 0.5)}))
    assert None not in before and rewards.content("length") is None and rewards.content(dict(kind="sum", of={"a": ("length", 1.0)})) is None
    file.write_text(FUNCTIONS + "\n")
    assert rewards.content(mine) not in (None, before[0])
    assert rewards.content(dict(kind="sum", of={"a": (mine, 1.0), "b": ("length", 0.5)})) not in (None, before[1])

"""The teacher-hacking experiment: its language, its order of texts, and that every arm runs."""

import itertools
import json

import jax
import numpy as np
import pytest

from jaxalign.experiments import teacher_hacking
from jaxalign.experiments.parts import hacking_tables, many_seeds, tiny_decoder
from jaxalign.experiments.parts.topics import Language

OPTIMIZED = True
TINY = Language.draw(3, vocabulary=3, topics=2, prompt=2, response=2)


def test_the_language_is_a_mixture_over_topics_of_whole_texts():
    prompt = np.array([[2, 1]])
    texts = np.array(list(itertools.product(range(3), repeat=2)))
    log_probs = TINY.log_probs(np.repeat(prompt, 9, 0), texts)
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1.0)
    of_text = np.exp(np.take_along_axis(log_probs, texts[:, :, None], 2).sum((1, 2)))
    weight = TINY.unigrams[:, 2] * TINY.unigrams[:, 1]  # of each topic after the prompt
    wanted = [np.average(TINY.bigrams[:, 1, a] * TINY.bigrams[:, a, b], weights=weight) for a, b in texts]
    np.testing.assert_allclose(of_text, wanted)


def test_responses_are_drawn_with_the_probabilities_of_the_language():
    prompts = np.repeat([[0, 2]], 20_000, 0)
    drawn = TINY.responses(prompts, np.random.default_rng(0))
    wanted = np.exp(TINY.log_probs(prompts[:1], drawn[:1]))[0, 0]
    np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=3) / 20_000, wanted, atol=0.012)  # three standard errors


def test_the_entropy_of_the_experiments_language_is_the_published_one():
    rng, language = np.random.default_rng(0), teacher_hacking.LANGUAGE
    prompts = language.prompts(1000, rng)
    log_probs = language.log_probs(prompts, language.responses(prompts, rng))
    assert -(np.exp(log_probs) * log_probs).sum(-1).mean() == pytest.approx(1.48, abs=0.02)


def test_all_texts_come_once_before_any_comes_again():
    batches = teacher_hacking.shuffled(np.arange(500), np.random.default_rng(0))
    seen = np.concatenate([next(batches).ravel() for _ in range(25)])
    for i in range(0, len(seen), 500):
        np.testing.assert_array_equal(np.sort(seen[i : i + 500]), np.arange(500))


def test_measurements_are_denser_at_the_beginning_and_between_calls():
    at = teacher_hacking.points(2400, 200)
    assert at[0] == 0 and at[-1] == 2400 and {100, 200, 300, 400, 800, 2200} < set(at) and len([x for x in at if x < 100]) > 5
    assert not any(x % teacher_hacking.SCAN for x in at)
    for steps, every in ((50, 100), (10, 10), (300, 100)):
        at = teacher_hacking.points(steps, every)
        assert at[-1] == steps and not any(x % teacher_hacking.SCAN for x in at)


@pytest.mark.parametrize(("steps", "every", "wrong"), [(1003, 100, "steps=1003"), (300, 101, "every=101"), (0, 5, "steps=0")])
def test_a_length_that_the_loop_cannot_measure_at_is_refused(steps, every, wrong):
    with pytest.raises(ValueError, match=f"{wrong} of teacher_hacking is no multiple of the 5 steps"):
        teacher_hacking.points(steps, every)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [({"arms": ("online",)}, "arms=.'online',.*arms of online_teacher"), ({"arms": ()}, "arms="), ({"seeds": 0}, "seeds=0")],
)
def test_what_cannot_be_measured_is_refused_before_a_teacher_learns(tmp_path, options, wrong):
    with pytest.raises(ValueError, match=wrong):
        teacher_hacking.run(tmp_path, **options)


@pytest.mark.slow
def test_every_source_of_texts_runs_and_the_results_are_written(tmp_path, monkeypatch):
    for name, value in (("TEACHER_STEPS", 20), ("TEACHER_EVERY", 10), ("STUDENT_STEPS", 10)):
        monkeypatch.setattr(teacher_hacking, name, value)
    monkeypatch.setattr(teacher_hacking, "COUNTS", {"oracle": 100, "prompts": 400, "validation": 32})
    arms = ("online_teacher", "online_student", "offline_200x5", "mixed_half")
    found = teacher_hacking.run(tmp_path, seeds=1, steps=10, every=10, arms=arms, workers=1)
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "results.json", "plot.png", "curves"}
    assert json.loads((tmp_path / "results.json").read_text())["golden_final"] == found["golden_final"]
    start = found["seeds"]["0"]["start"]
    for arm in arms:
        one = found["seeds"]["0"][arm]
        assert one["steps"] == [1, 5, 10] and one["golden"][0] == pytest.approx(start["golden"], rel=1e-5)
        assert one["proxy_final"] < start["proxy"]
    assert len(json.loads((tmp_path / "curves" / "0-online_student.json").read_text())) == 3


@pytest.mark.slow
def test_fresh_texts_of_the_teacher_end_nearer_to_the_truth_than_a_few_fixed_ones(tmp_path):
    # published for 600 steps of a prototype: 3.89 and 4.52, 4.14 and 4.49
    found = teacher_hacking.run(tmp_path, seeds=1, steps=600, every=600, arms=("online_teacher", "offline_200x5"))["golden_final"]
    assert found["online_teacher"] + 0.2 < found["offline_200x5"]


@pytest.fixture
def student():
    with many_seeds.one_device():
        yield tiny_decoder.init(teacher_hacking.STUDENT, jax.random.key(0))


@pytest.mark.slow
def test_every_prompt_gets_its_samples_whatever_their_number(student):
    prompts = teacher_hacking.LANGUAGE.prompts(170, np.random.default_rng(1))
    texts = teacher_hacking.said(teacher_hacking.STUDENT, student, prompts, seed=1, samples=2)
    np.testing.assert_array_equal(texts[:, :, :6], prompts[:, None].repeat(2, 1))
    assert (texts[:, 0, 6:] != texts[:, 1, 6:]).any(1).mean() > 0.99


@pytest.mark.slow
def test_samples_are_drawn_with_the_probabilities_of_the_forward(student):
    size, prompts = teacher_hacking.STUDENT, teacher_hacking.LANGUAGE.prompts(50, np.random.default_rng(2))
    rows, logps = jax.jit(lambda *x: tiny_decoder.draw(*x, size=size))(student, prompts, jax.random.key(0))
    seen = jax.jit(lambda *x: tiny_decoder.forward(*x, 0, size=size).logps)(student, teacher_hacking.batch(rows))
    np.testing.assert_allclose(seen[:, 6:], logps, atol=1e-5)
    assert not seen[:, :6].any()
    rows, _ = jax.jit(lambda *x: tiny_decoder.draw(*x, size=size))(student, prompts[:1].repeat(4000, 0), jax.random.key(1))
    first = np.bincount(rows[:, 6], minlength=16)
    wanted = np.exp(tiny_decoder.log_probs(student, tiny_decoder.states(student, prompts[:1], size)[0][0, -1]))
    np.testing.assert_allclose(first / 4000, wanted, atol=0.03)


def test_a_summary_raises_the_alarms_of_the_curve():
    steps = [100, 200, 400, 800, 1600, 2400]
    proxy = np.array([4.0, 2.8, 2.0, 1.9, 1.85, 1.84])
    found = hacking_tables.summary(hacking_tables.Curve(steps, proxy, [6.0, 5.2, 4.8, 5.0, 5.4, 5.6]))
    assert found["golden_least"] == 4.8 and found["golden_final"] == 5.6 and found["first_flag"] is not None
    assert found["slope_ratio"] < hacking_tables.ALARM and found["alarm"] is True
    half = hacking_tables.summary(hacking_tables.Curve([step / 2 for step in steps], proxy, [6.0, 5.2, 4.8, 5.0, 5.4, 5.6]))
    assert half["slope_ratio"] == pytest.approx(found["slope_ratio"])


@pytest.mark.parametrize(
    ("early", "late", "wanted"),
    [(-0.5, -0.4, False), (-0.5, -0.1, True), (-0.5, 0.3, True), (0.1, 0.2, True), (0.1, -0.2, False), (np.nan, -0.1, None)],
)
def test_the_detector_without_an_oracle_tells_a_rising_proxy_and_what_it_cannot_tell(early, late, wanted):
    assert hacking_tables.alarm(early, late) is wanted


def test_what_a_short_curve_cannot_tell_is_no_number_in_the_results():
    found = hacking_tables.summary(hacking_tables.Curve([1, 5, 10], [3.0, 2.0, 1.5], [5.0, 4.0, 3.5]))
    assert found["slopes"][0] is None and found["slope_ratio"] is None and found["alarm"] is None
    json.dumps(found, allow_nan=False)
    assert hacking_tables._cells([found])[-2:] == ["-", "-"]

"""Win rates: invariants, closed forms, and a judge that likes length."""

import math

import numpy as np
import pytest

from jaxalign.reports.win_rates import SLOPE_SD, by_prompt, length_controlled, verdicts, win_rate

NAN = math.nan


def test_verdicts_compare_scores_and_a_missing_score_gives_none():
    first, second = [1.0, 2.0, 3.0, NAN, 1.0, -math.inf], [0.0, 2.0, 4.0, 1.0, NAN, math.inf]
    np.testing.assert_array_equal(verdicts(first, second), [1, 0.5, 0, NAN, NAN, 0])


def test_values_are_summed_by_prompt_and_missing_ones_weigh_nothing():
    sums, weights = by_prompt([1.0, NAN, 0.5, 0.0, NAN], [7, 7, 3, 3, 9])
    np.testing.assert_array_equal((sums, weights), [[0.5, 1.0, 0.0], [2.0, 1.0, 0.0]])


def test_a_win_rate_counts_prompts_and_not_samples():
    found = win_rate([1.0, 1.0, 0.5, 0.0, NAN], [0, 0, 1, 2, 3])
    assert (found.value, found.n) == (pytest.approx(2.5 / 4), 3)


def drawn(n, *, quality=0.0, length=0.0, longer=0.0, seed=0):
    """Verdicts of a judge that looks at quality and at length: P(win) = sigmoid(quality + length * tanh(d / sd(d)))."""
    draw = np.random.default_rng(seed)
    lengths, against = draw.normal(100 + longer, 30, n), draw.normal(100, 30, n)
    difference = lengths - against
    chance = 1 / (1 + np.exp(-quality - length * np.tanh(difference / difference.std())))
    return (draw.random(n) < chance).astype(float), lengths, against, np.arange(n)


def test_at_equal_lengths_the_controlled_rate_is_the_raw_one():
    verdict, lengths, _, prompts = drawn(50)
    verdict[::7] = 0.5
    controlled, raw = length_controlled(verdict, lengths, lengths, prompts // 2), win_rate(verdict, prompts // 2)
    assert controlled == pytest.approx(raw, rel=1e-9)


def test_the_two_sides_may_change_places():
    verdict, lengths, against, prompts = drawn(80, quality=0.5, length=1.0, longer=20)
    found, turned = length_controlled(verdict, lengths, against, prompts), length_controlled(1 - verdict, against, lengths, prompts)
    assert turned == pytest.approx((1 - found.value, found.se, found.n), rel=1e-8)


def test_longer_answers_that_win_by_their_length_alone_come_out_equal():
    verdict, lengths, against, prompts = drawn(4000, length=2.0, longer=40)
    raw, controlled = win_rate(verdict, prompts), length_controlled(verdict, lengths, against, prompts)
    assert raw.value > 0.65 and abs(controlled.value - 0.5) < 2.5 * controlled.se < 0.05


def test_what_is_better_at_any_length_stays_better():
    verdict, lengths, against, prompts = drawn(4000, quality=1.0, length=2.0, longer=-40)
    controlled = length_controlled(verdict, lengths, against, prompts)
    assert abs(controlled.value - 1 / (1 + math.exp(-1))) < 2.5 * controlled.se


def test_the_error_is_that_of_repeated_drawing():
    found = [length_controlled(*drawn(200, quality=0.4, length=1.0, longer=20, seed=seed)) for seed in range(300)]
    spread = np.std([one.value for one in found])
    assert np.mean([one.se for one in found]) == pytest.approx(spread, rel=0.15)


def test_samples_of_a_prompt_that_agree_are_one_observation():
    verdict, lengths, against, prompts = drawn(100, quality=0.3, length=1.0)
    once = length_controlled(verdict, lengths, against, prompts)
    thrice = length_controlled(*(np.repeat(x, 3) for x in (verdict, lengths, against, prompts)))
    assert thrice.n == 100 and thrice.se == pytest.approx(once.se, rel=0.05)  # the prior weighs a third


@pytest.mark.parametrize("verdict", [[1.0] * 5, [0.0] * 5])
def test_where_all_verdicts_are_equal_no_length_can_be_told_from_quality(verdict):
    assert length_controlled(verdict, [9, 3, 4, 8, 2], [1, 2, 3, 4, 5], range(5)) == win_rate(verdict, range(5))


def test_where_the_longer_answer_always_wins_the_rate_is_that_of_the_most_likely_slope_under_its_prior():
    """The maximum of likelihood and prior, which has none without the prior, by trying the slopes and intercepts of a grid."""
    lengths = np.array([9.0, 3.0, 4.0, 8.0, 2.0, 1.0])
    found = length_controlled(lengths > 4, lengths, np.full(6, 7.0), np.arange(6))
    x = np.tanh((lengths - 7.0) / lengths.std())
    a, b = np.meshgrid(np.linspace(-3, 3, 601), np.linspace(0, 10, 501), indexing="ij")
    logits = a[..., None] + b[..., None] * x
    loss = (np.logaddexp(0, logits) - (lengths > 4) * logits).sum(-1) + b**2 / (2 * SLOPE_SD**2)
    assert found.value == pytest.approx(1 / (1 + math.exp(-a.flat[loss.argmin()])), abs=0.005) and math.isfinite(found.se)


def test_without_a_verdict_nothing_is_measured():
    assert str(length_controlled([NAN, NAN], [1, 2], [3, 4], [0, 1])) == "-"

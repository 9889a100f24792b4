"""Intervals against published numbers, closed forms and how often they hold the truth."""

import math

import numpy as np
import pytest

from jaxalign.reports.estimates import change, estimate
from jaxalign.reports.intervals import bootstrap, paired_bootstrap, wilson


@pytest.mark.parametrize(
    "wins, n, low, high",  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_equal_published_ones(wins, n, low, high):
    assert wilson(wins / n, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_needs_a_trial():
    assert wilson(0.2, 30) == pytest.approx(tuple(1 - end for end in reversed(wilson(0.8, 30))))
    assert all(map(math.isnan, (*wilson(0.5, 0), *wilson(math.nan, 10))))
    assert str(wilson(0.5, 0)) == "-" and str(wilson(0.5, 100)) == "0.404 to 0.596"


def test_wilson_at_another_level_solves_its_equation():
    """Both ends are the shares from which 0.3 of 50 lies z standard errors away."""
    for end in wilson(0.3, 50, level=0.8):
        assert abs(0.3 - end) / math.sqrt(end * (1 - end) / 50) == pytest.approx(1.2815515655)


def test_the_bootstrap_agrees_with_the_standard_error_of_many_prompts():
    draw = np.random.default_rng(0)
    weights = draw.integers(1, 5, 500).astype(float)
    sums = weights * draw.normal(3, 2, 500)
    found, (low, high) = estimate(sums, weights), bootstrap(sums, weights, seed=1)
    assert (low, high) == pytest.approx((found.value - 1.96 * found.se, found.value + 1.96 * found.se), abs=0.1 * found.se)


def test_a_bootstrap_is_a_function_of_its_seed_and_leaves_prompts_without_weight_out():
    sums, weights = np.array([1.0, 0.0, 0.0, 2.0]), np.array([1.0, 1.0, 0.0, 2.0])
    assert bootstrap(sums, weights, seed=0) == bootstrap(sums, weights, seed=0) == bootstrap(sums[[0, 1, 3]], weights[[0, 1, 3]], seed=0)
    assert all(map(math.isnan, bootstrap(np.zeros(3), np.zeros(3), seed=0)))
    assert all(map(math.isnan, bootstrap(sums[:1], np.ones(1), seed=0)))  # all draws of one prompt are the same


def test_what_two_measurements_of_a_prompt_share_cancels():
    draw = np.random.default_rng(2)
    before = draw.normal(0, 100, 500)
    after = before + draw.normal(1, 0.5, 500)
    ones = np.ones(500)
    low, high = paired_bootstrap((before, ones), (after, ones), seed=0)
    found = change((before, ones), (after, ones))
    assert low < found.value < high and high - low == pytest.approx(3.92 * found.se, rel=0.1) and high - low < 0.1


def test_a_prompt_that_one_measurement_lacks_does_not_count():
    ones, some = np.ones(4), np.array([1.0, 1.0, 1.0, 0.0])
    values = np.arange(4.0)
    cut = paired_bootstrap((values[:3], ones[:3]), (values[:3] ** 2, ones[:3]), seed=0)
    assert paired_bootstrap((values, ones), (values**2 * some, some), seed=0) == cut


def test_the_paired_interval_holds_the_truth_in_about_95_of_100_cases():
    draw, ones = np.random.default_rng(3), np.ones(80)
    pairs = [(draw.normal(0, 1, 80), draw.exponential(2, 80)) for _ in range(300)]
    intervals = [paired_bootstrap((one, ones), (one + other, ones), seed=0, draws=400) for one, other in pairs]
    held = np.mean([low <= 2 <= high for low, high in intervals])
    assert 0.90 <= held <= 0.98  # of skewed differences; 300 cases vary by 0.013

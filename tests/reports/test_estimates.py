"""Standard errors against numpy, by hand and by repeated drawing."""

import math

import numpy as np
import pytest

from jaxalign.reports.estimates import MISSING, Estimate, change, estimate


@pytest.mark.parametrize("n", [2, 3, 17, 400])
def test_of_one_value_per_prompt_the_error_is_that_of_a_mean(n):
    values = np.random.default_rng(n).normal(-60, 3, n)
    found = estimate(values, np.ones(n))
    assert found.value == pytest.approx(values.mean(), rel=1e-12) and found.n == n
    assert found.se == pytest.approx(values.std(ddof=1) / n**0.5, rel=1e-12)


def test_prompts_without_weight_do_not_count():
    values, weights = np.array([1.0, 9.0, 0.0, 7.0]), np.array([1.0, 0.0, 1.0, 0.0])
    assert estimate(values * weights, weights) == estimate([1.0, 0.0], [1.0, 1.0]) == Estimate(0.5, pytest.approx(0.5), 2)


def test_a_share_of_one_half_among_n_pairs_has_the_error_of_a_coin():
    rights = np.tile([1.0, 0.0], 107)
    assert estimate(rights, np.ones(214)).se == pytest.approx(0.5 / 213**0.5)


def test_the_tokens_of_a_prompt_are_one_observation():
    """100 prompts of 50 equal tokens are worth 100 observations, not 5,000."""
    values = np.random.default_rng(0).normal(size=100)
    assert estimate(values * 50, np.full(100, 50.0)).se == pytest.approx(values.std(ddof=1) / 10)


def test_prompts_of_unequal_weight_vary_from_sample_to_sample_as_estimated():
    draw = np.random.default_rng(1)
    weights = draw.integers(1, 30, (2000, 80)).astype(float)
    values = draw.normal(size=weights.shape) + 0.1 * weights
    found = [estimate(w * v, w) for w, v in zip(weights, values, strict=True)]
    spread = np.std([one.value for one in found])
    assert np.mean([one.se for one in found]) == pytest.approx(spread, rel=0.05)


def test_nothing_measured_has_no_value_and_one_prompt_no_error():
    nothing, one = estimate(np.zeros(3), np.zeros(3)), estimate([2.0], [4.0])
    assert math.isnan(nothing.value) and math.isnan(nothing.se) and nothing.n == 0 and str(nothing) == str(MISSING) == "-"
    assert one.value == 0.5 and math.isnan(one.se) and str(one) == "0.5"


def test_the_change_of_the_same_prompts_is_measured_better_than_its_two_ends():
    draw = np.random.default_rng(2)
    before = draw.normal(-50, 20, 214)
    after = before - 3 + draw.normal(0, 1, 214)
    found = change((before, np.ones(214)), (after, np.ones(214)))
    assert found.value == pytest.approx((after - before).mean()) and found.n == 214
    assert found.se == pytest.approx((after - before).std(ddof=1) / 214**0.5) and found.se < 0.1 * estimate(after, np.ones(214)).se


def test_a_change_is_measured_on_the_prompts_that_both_sides_have():
    before, after = np.array([1.0, 2.0, 9.0, 4.0]), np.array([1.5, 9.0, 9.0, 5.5])
    lacking = [np.array([1.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0, 1.0])]
    found = change((before * lacking[0], lacking[0]), (after * lacking[1], lacking[1]))
    assert found == change((before[[0, 3]], np.ones(2)), (after[[0, 3]], np.ones(2)))
    assert found.value == 1.0 and found.beside(3) == f"{found} (2 prompts)" and found.beside(2) == str(found)
    assert change((before * 0, before * 0), (after, np.ones(4))).beside(4) == "-"


def test_an_infinite_value_is_not_hidden():
    found = estimate([1.0, np.inf], [1.0, 1.0])
    assert found.value == math.inf and math.isnan(found.se)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Estimate(0.6028, 0.0335, 214), "0.603 ± 0.034"),
        (Estimate(-50.3, 2.6, 214), "-50.3 ± 2.6"),
        (Estimate(1234.5, 12.0, 9), "1,234 ± 12"),
        (Estimate(0.5, 0.0, 214), "0.5"),
        (Estimate(0.000123456, 0.0000021, 5), "0.0001235 ± 0.0000021"),
        (Estimate(math.nan, math.nan, 0), "-"),
    ],
)
def test_a_value_is_written_as_precisely_as_it_is_known(given, text):
    assert str(given) == text

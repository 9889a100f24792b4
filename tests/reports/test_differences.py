"""Means and differences over seeds and prompts: known intervals, what pairing is worth, and how often the truth is inside."""

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from jaxalign.reports import differences
from jaxalign.reports.estimates import Estimate, estimate


def test_one_seed_has_students_interval_over_prompts():
    one = differences.mean([Estimate(0.6, 0.05, 21)])
    half = 2.085963 * 0.05  # t of 20 degrees of freedom at 97.5 %
    assert one == (0.6, pytest.approx(0.6 - half), pytest.approx(0.6 + half), 1, 21, False)


def test_seeds_and_prompts_each_add_their_variance():
    ends = [Estimate(value, 0.05, 101) for value in (0.5, 0.6, 0.7)]
    prompts, seeds = 0.05**2, 0.1**2 / 3
    freedom = (prompts + seeds) ** 2 / (prompts**2 / 100 + seeds**2 / 2)
    half = stdtrit(freedom, 0.975) * math.sqrt(prompts + seeds)
    one = differences.mean(ends)
    assert (one.value, one.low, one.high, one.seeds) == (pytest.approx(0.6), pytest.approx(0.6 - half), pytest.approx(0.6 + half), 3)


def test_what_is_measured_prompt_by_prompt_is_the_difference_on_the_prompts_that_both_sides_have():
    one = differences.between([Estimate(0.7, 0.1, 50)], [Estimate(0.5, 0.1, 48)], Estimate(0.3, 0.01, 47))
    assert (one.value, one.prompts, one.paired) == (0.3, 47, True) and one.high - one.low < 0.05


def test_the_sides_of_a_difference_change_places():
    first, second = [Estimate(0.7, 0.02, 50), Estimate(0.72, 0.02, 50)], [Estimate(0.5, 0.03, 50)]
    one, other = differences.between(first, second), differences.between(second, first)
    assert (one.sign, other.sign) == (1, -1)
    assert (-one.value, -one.high, -one.low) == pytest.approx(other[:3])


def test_pairing_takes_out_what_prompts_share():
    hard = np.random.default_rng(0).normal(size=60)
    first, second = (estimate(hard + gain, np.ones(60)) for gain in (0.1, 0.0))
    unpaired = differences.between([first], [second])
    paired = differences.between([first], [second], Estimate(0.1, 1e-9, 60))
    assert unpaired.sign == 0 and paired.sign == 1


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_without_an_error_nothing_can_be_told(error):
    one = differences.between([Estimate(0.9, error, 1)], [Estimate(0.1, 0.01, 50)])
    assert one.sign == 0 and math.isnan(one.low)


def test_equal_values_without_spread_have_an_interval_of_no_width():
    assert differences.between([Estimate(0.5, 0.0, 9)], [Estimate(0.5, 0.0, 9)])[:3] == (0.0, 0.0, 0.0)


def test_intervals_hold_the_true_difference_of_other_seeds_and_prompts():
    draw = np.random.default_rng(1)

    def side():
        prompts, seeds = draw.normal(size=30), draw.normal(size=(3, 1)) * 0.3
        return [estimate(values, np.ones(30)) for values in prompts + seeds + draw.normal(size=(3, 30)) * 0.5]

    inside = [one.low <= 0 <= one.high for one in (differences.between(side(), side()) for _ in range(400))]
    assert 0.93 <= np.mean(inside) <= 1.0


def test_simultaneous_intervals_are_wider():
    assert differences.simultaneous(1) == pytest.approx(0.95)
    assert differences.simultaneous(10) == pytest.approx(0.995)


@pytest.mark.parametrize(("prompts", "sign"), [(2, 0), (5, 0), (6, 1), (40, 1)])
def test_the_same_lead_on_every_prompt_is_told_from_six_prompts_on_as_in_a_sign_test(prompts, sign):
    ones, zeros, rounding = (Estimate(value, 1e-18, prompts) for value in (1.0, 0.0, 0.1))
    assert differences.between([ones], [zeros], ones).sign == sign
    assert differences.between([rounding], [zeros], rounding).sign == sign
    assert differences.between([ones], [zeros]).sign in (0, sign)


@pytest.mark.parametrize(("prompts", "sign"), [(2, 0), (40, 1)])
@pytest.mark.parametrize("seeds", [1, 2])
def test_shares_without_spread_have_wilsons_interval_however_many_seeds(prompts, sign, seeds):
    all_right, none_right = ([Estimate(value, 0.0, prompts)] * seeds for value in (1.0, 0.0))
    lead = differences.between(all_right, none_right, share=True)
    assert lead.sign == sign and -1 <= lead.low < lead.high <= 1
    right = differences.mean(all_right, share=True)
    assert right.high == 1 and right.low == pytest.approx(1 - 1 / (1 + prompts / stdtrit(prompts - 1, 0.975) ** 2))


def test_the_interval_of_a_share_stays_within_0_and_1():
    one = differences.mean([Estimate(0.95, 0.1, 20)], share=True)
    assert 0 < one.low < 0.95 < one.high < 1
    assert differences.mean([Estimate(0.95, 0.1, 20)]).high > 1


def test_intervals_of_shares_hold_the_true_difference_near_their_end():
    draw = np.random.default_rng(2)
    sides = lambda: [estimate(draw.random(30) < 0.95, np.ones(30))]  # noqa: E731
    inside = [one.low <= 0 <= one.high for one in (differences.between(sides(), sides(), share=True) for _ in range(400))]
    assert 0.93 <= np.mean(inside) <= 1.0

"""Areas and pairs in order of answers that were read fold by fold: against plain counts, and what a bootstrap draw means."""

import numpy as np

from jaxalign.experiments.parts import readings
from jaxalign.experiments.parts.readings import Reading
from jaxalign.scoring import votes


def reading(seed, prompts=6, each=3):
    draw = np.random.default_rng(seed)
    right = draw.random(prompts * each) < 0.5
    rewards = np.round(draw.standard_normal((prompts * each, len(readings.SHARES))) + right[:, None], 1)
    return Reading(np.repeat(np.arange(prompts), each), right, rewards, rewards[:, -1], {})


def test_an_area_is_that_of_the_answers_as_often_as_their_prompts_are_drawn():
    one = reading(0)
    counts = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 1, 3, 0, 0]])
    found = readings.areas(one, one.rewards[:, -1], counts)
    for area, times in zip(found, counts, strict=True):
        drawn = np.repeat(np.arange(len(one.right)), times[one.prompts])
        np.testing.assert_allclose(area, votes.auroc(one.rewards[drawn, -1], one.right[drawn]))


def test_pairs_in_order_are_those_of_a_prompt():
    one = Reading(
        np.array([0, 0, 0, 1, 1]),
        np.array([1, 0, 0, 1, 1], bool),
        np.array([[2.0] * 4, [1.0] * 4, [2.0] * 4, *[[0.0] * 4] * 2]),
        np.zeros(5),
        {},
    )
    sums, weights = readings.in_order([one, one])
    assert sums.tolist() == [1.5, 0, 1.5, 0] and weights.tolist() == [2, 0, 2, 0]


def test_a_reading_is_not_above_itself_and_its_intervals_hold_its_values():
    found = readings.summary([reading(0), reading(1)])
    for one in (found["accuracy"], *found["auroc"]):
        assert one["low"] <= one["value"] <= one["high"]
    difference = readings.difference([reading(0), reading(1)], [reading(0), reading(1)])
    for one in (difference["accuracy"], *difference["auroc"]):
        assert one == {"value": 0.0, "low": 0.0, "high": 0.0}
    better = [r._replace(rewards=r.rewards + 9.0 * r.right[:, None]) for r in (reading(0), reading(1))]
    assert readings.difference(better, [reading(0), reading(1)])["auroc"][-1]["low"] > 0

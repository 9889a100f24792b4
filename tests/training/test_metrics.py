"""Metrics that are the same for every objective, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.training import metrics
from jaxalign.types import Batch, Outputs

REWARDS = (0.9, 0.1, 0.4)  # of three responses to one prompt, of 1, 2 and 3 tokens
SLOTS = (-1, 0, 1, 1, 2, 2, 2, -1)


def batch(valid=(True, True, True)):
    """One row: a prompt token, the three responses, padding."""
    tokens = jnp.zeros((1, len(SLOTS)), jnp.int32)
    return Batch(
        tokens=tokens, positions=tokens, segments=tokens, prefixes=tokens, slots=jnp.array([SLOTS], jnp.int32),
        valid=jnp.array([valid]), reward=jnp.array([REWARDS], jnp.float32), paired=jnp.array([False]),
    )  # fmt: skip


def outputs(*sums):
    """Log-probs that add up to `sums` a response."""
    counts = [SLOTS.count(k) for k in range(3)]
    return Outputs(logps=jnp.array([[0.0 if k < 0 else sums[k] / counts[k] for k in SLOTS]], jnp.float32))


def share(pair):
    values, weights = pair
    return float((values * weights).sum() / weights.sum())


@pytest.mark.parametrize(
    ("sums", "by_log_ratios"),
    [((3, 1, 2), 1.0), ((1, 3, 2), 0.0), ((3, 2, 1), 2 / 3), ((1, 1, 1), 0.5), ((2, 1, 1), 2.5 / 3)],
)
def test_two_of_three_orders_right_are_two_thirds_and_a_tie_is_half_of_one(sums, by_log_ratios):
    found = metrics.rankings(outputs(*sums), outputs(0, 0, 0), batch())
    np.testing.assert_allclose(share(found["accuracy"]), by_log_ratios, rtol=1e-6)


def test_log_probs_are_compared_a_token_and_need_no_reference():
    found = metrics.rankings(outputs(-1.0, -4.0, -4.5), None, batch())  # a token: -1, -2, -1.5
    assert share(found["ranking/logps"]) == 1.0
    np.testing.assert_allclose(share(found["accuracy"]), 2 / 3, rtol=1e-6)  # of whole responses: -4 is above -4.5


def test_invalid_responses_and_equal_rewards_do_not_count():
    assert float(metrics.rankings(outputs(1, 2, 3), None, batch((True, False, True)))["ranking/logps"][1].sum()) == 1
    same = batch().replace(reward=jnp.zeros((1, 3)))
    assert float(metrics.rankings(outputs(1, 2, 3), None, same)["ranking/logps"][1].sum()) == 0


def test_length_alone_ranks_as_a_judge_of_the_longer_response_would():
    found = metrics.rankings(outputs(1, 2, 3), outputs(3, 2, 1), batch())  # the rewards are those of lengths 1 > 3 > 2
    np.testing.assert_allclose(share(found["ranking/length"]), 1 / 3, rtol=1e-6)

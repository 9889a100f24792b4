"""Reward GOLD: tokens count by their own probability, responses by their reward (baseline of arXiv 2305.14718 after arXiv 2009.07839)."""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families import likelihood
from jaxalign.types import Batch, Outputs, Terms, sum_responses

REQUIRES = ("rewards",)


def gold(policy: Outputs, reference: Outputs | None, batch: Batch, *, floor: float = 0.1) -> Terms:
    """reward * sum over tokens of max(pi, floor) * -log pi for every valid response; reward and probability weights are constants.

    The original GOLD has a floor on the weights too, but future rewards from a frozen model in the place of one reward.

    Args:
      policy: log-probs of the batch.
      reference: not needed; where there is one, the drift from it is logged.
      batch: every valid response is trained on, both sides of a pair too. Rewards should be >= 0.
      floor: u, the least weight of a token, 0 to 1. Published: 0.1.

    Raises:
      ValueError: floor out of range.
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"objective 'gold' got floor={floor}; it is the least weight of a token, a probability in [0, 1], often 0.1.")
    reward, metrics = likelihood.rewards(batch)
    weight = jnp.maximum(jnp.exp(jax.lax.stop_gradient(policy.logps)), floor)
    # L = R sum_t max(p_t, u) (-log p_t)
    loss = reward * -sum_responses(weight * policy.logps, batch)
    return likelihood.terms(loss, policy, reference, batch, metrics, {"weights/mean": weight, "weights/floor": weight <= floor})

"""A strength of the KL that follows a target (arXiv 1909.08593, section 2.2): stronger while rollouts are further from the reference.

What is carried from step to step is the logarithm of a factor, 0 at first, on the strengths in the loss and in the reward of rollouts.
"""

import jax.numpy as jnp

from jaxalign.objectives.families.kl_estimates import k1
from jaxalign.types import Array, Batch, Outputs, sum_responses, token_column

NAME = "kl_factor"  # of the statistic
LARGEST = 0.2  # share by which the distance from the target counts at most


def statistics(reference: Outputs, batch: Batch) -> dict[str, tuple[Array, Array]]:
    """The KL of rollouts to the reference, k1 summed over a response, and 1 where there is any: an objective's `statistics`."""
    valid = batch.valid.astype(jnp.float32)
    kl = sum_responses(k1(token_column(batch, "rollout_logps"), reference.logps), batch)
    return {NAME: (kl, valid), "seen": (jnp.ones_like(valid), valid)}


def carry(previous: dict[str, Array], current: dict[str, Array], *, target_kl: float, rate: float) -> dict[str, Array]:
    """What is carried on: the factor grows by rate * clip(KL / target_kl - 1, -0.2, 0.2); a batch without responses leaves it."""
    error = jnp.clip(current[NAME] / target_kl - 1, -LARGEST, LARGEST)
    return {NAME: previous[NAME] + current["seen"] * jnp.log1p(rate * error), "seen": current["seen"]}


def factor(statistics: dict[str, Array]) -> Array:
    """The factor, float32[]: 1 where nothing is carried."""
    return jnp.exp(statistics[NAME]) if NAME in statistics else jnp.ones((), jnp.float32)

"""A strength of the KL that follows a target (arXiv 1909.08593, section 2.2): stronger while rollouts are further from the reference.

What is carried from step to step is the logarithm of a factor, 0 at first, on the strengths in the loss and in the reward of rollouts. Each
batch of a rollout moves it once, however often it is visited.
"""

import math

import jax.numpy as jnp

from jaxalign.objectives.families.kl_estimates import k1
from jaxalign.types import Array, Batch, Outputs, column, sum_responses, token_column

NAME = "kl_factor"  # of the statistic
FIRST_VISIT = "first_visit"  # column of responses: 1 where a batch of a rollout is trained on for the first time, 0 later
RATE = 0.1  # of the steering, where none is named
LARGEST = 0.2  # share by which the distance from the target counts at most


def check(name: str, *, target_kl: float, kl_rate: float) -> None:
    """Raises ValueError where an option of objective `name` has no effect, or lies where the factor would stand still, or turn to NaN."""
    if not (0 <= target_kl < math.inf and 0 < kl_rate <= 1):
        raise ValueError(f"objective {name!r} got {target_kl=}, {kl_rate=}; a target is above 0 (0: none), a rate above 0 and 1 at most.")
    if not target_kl and kl_rate != RATE:
        raise ValueError(f"objective {name!r} got {kl_rate=} without target_kl, to which it steers; set target_kl, or leave kl_rate out.")


def requires(*, target_kl: float) -> tuple[str, ...]:
    """What `statistics` reads, where there is a target: an objective's `requires`."""
    return (f"columns.{FIRST_VISIT}",) if target_kl else ()


def statistics(reference: Outputs, batch: Batch) -> dict[str, tuple[Array, Array]]:
    """The KL of rollouts to the reference, k1 summed over a response, and 1 where there is any new one: an objective's `statistics`."""
    new = jnp.where(batch.valid, column(batch, FIRST_VISIT), 0.0)
    kl = sum_responses(k1(token_column(batch, "rollout_logps"), reference.logps), batch)
    return {NAME: (kl, new), "seen": (jnp.ones_like(new), new)}


def carry(previous: dict[str, Array], current: dict[str, Array], *, target_kl: float, rate: float) -> dict[str, Array]:
    """What is carried on: the factor grows by rate * clip(KL / target_kl - 1, -0.2, 0.2); a batch without new responses leaves it."""
    error = jnp.clip(current[NAME] / target_kl - 1, -LARGEST, LARGEST)
    return {NAME: previous[NAME] + current["seen"] * jnp.log1p(rate * error), "seen": current["seen"]}


def factor(statistics: dict[str, Array]) -> Array:
    """The factor, float32[]: 1 where nothing is carried."""
    return jnp.exp(statistics[NAME]) if NAME in statistics else jnp.ones((), jnp.float32)

"""The value of a prompt: what reward a response to it earns on average (A-LoL, arXiv 2305.14718, algorithm 1)."""

import jax.numpy as jnp

from jaxalign.types import Batch, Outputs, Terms, column, prompt_values

REQUIRES = ("value_head", "value_head_alone")


def requires(*, rewards: tuple) -> tuple[str, ...]:
    """What is summed."""
    return tuple("rewards" if name == "reward" else f"columns.{name}" for name in rewards)


def value(policy: Outputs, reference: Outputs | None, batch: Batch, *, rewards: tuple = ("reward",)) -> Terms:
    """(value - reward)^2 of every valid response; the mean is over responses.

    The value head alone gets a gradient. Its best value is the mean reward of the responses given, so these should be drawn from the
    policy whose value is meant: for A-LoL the reference.

    Args:
      policy: prompt_values float32[N, K], one for each response's prompt, in (0, max_value) of the head.
      reference: not read.
      batch: every valid response counts, both sides of a pair too; the sum of their rewards is in [0, max_value].
      rewards: what is summed: "reward", the feedback, and columns float32[N, K]; as in the advantage that the value is for.

    Raises:
      ValueError: the model has no value head, or there is nothing to sum.
    """
    if not rewards:
        raise ValueError("objective 'value' got rewards=(); name what is summed: 'reward', the feedback, or columns.")
    valid, values = batch.valid.astype(jnp.float32), prompt_values(policy)
    reward = sum(batch.reward if name == "reward" else column(batch, name) for name in rewards)
    # L = (V - R)^2
    loss = (values - reward) ** 2
    # of these means, correlation = (v r - v * r) / sqrt((v v - v^2) (r r - r^2))
    metrics = {
        "values/mean": values,
        "values/square": values**2,
        "feedback/mean": reward,
        "feedback/square": reward**2,
        "values/times_feedback": values * reward,
        "values/error": values - reward,
    }
    return Terms(loss, valid, {name: (number, valid) for name, number in metrics.items()})

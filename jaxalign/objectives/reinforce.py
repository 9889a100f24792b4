"""REINFORCE (Williams 1992): the plain policy gradient of whole responses, for one step on each rollout."""

import jax.numpy as jnp

from jaxalign.objectives.families import surrogate
from jaxalign.types import Array, Batch, Outputs, Terms, sum_responses

REQUIRES = ("columns.advantage",)
BASELINES = ("batch", "none")


def statistics(policy: Outputs, reference: Outputs | None, batch: Batch, *, baseline: str) -> dict[str, tuple[Array, Array]]:
    """The advantages, whose mean over the global batch is the baseline."""
    return {"baseline": (surrogate.response_advantages(batch), batch.valid.astype(jnp.float32))} if baseline == "batch" else {}


def reinforce(policy: Outputs, reference: Outputs | None, batch: Batch, statistics: dict[str, Array], *, baseline: str = "batch") -> Terms:
    """-(A - baseline) log pi of every response.

    It is the gradient of the mean reward for samples of this very policy: take one step per rollout (data.rollout.every_steps=1), or an
    objective with a ratio (rloo, grpo).

    Args:
      policy: log-probs of the batch.
      reference: not read; where there is one, the drift from it is measured.
      batch: a rollout with feedback "group_advantage", of whose advantages the baseline and the scale may be "none".
      statistics: the mean of the advantages over the global batch.
      baseline: "batch" subtracts that mean; "none" does not, as for advantages that are 0 in the mean.

    Raises:
      ValueError: an unknown baseline, or a column is missing.
    """
    if baseline not in BASELINES:
        raise ValueError(f"objective 'reinforce' got {baseline=}; there are {', '.join(BASELINES)}.")
    advantage = surrogate.response_advantages(batch)
    centred = advantage - statistics["baseline"] if baseline == "batch" else advantage
    loss = -centred * sum_responses(policy.logps, batch)
    metrics = {"advantages/mean": advantage, "advantages/square": advantage**2}
    return surrogate.terms(loss, policy, reference, batch, metrics)

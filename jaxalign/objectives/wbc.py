"""Weighted behaviour cloning: every response counts by its reward (a baseline of arXiv 2305.14718)."""

from jaxalign.objectives.families import likelihood
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("rewards",)


def wbc(policy: Outputs, reference: Outputs | None, batch: Batch) -> Terms:
    """reward * -log pi of every valid response, summed over its tokens.

    Args:
      policy: log-probs of the batch.
      reference: not needed; where there is one, the drift from it is logged.
      batch: every valid response is trained on, both sides of a pair too. Rewards should be >= 0: a negative one pushes the response down,
        without a bound.
    """
    # L = R nll
    reward, metrics = likelihood.rewards(batch)
    return likelihood.weighted_terms(reward, policy, reference, batch, metrics)

"""Negative log-likelihood of whole responses, the supervised baseline of the A-LoL family (arXiv 2305.14718)."""

from jaxalign.objectives.families import likelihood
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("unpaired",)


def nll(policy: Outputs, reference: Outputs | None, batch: Batch) -> Terms:
    """-log pi of every valid response, summed over its tokens; the mean is over responses (`sft` takes it over tokens).

    Args:
      policy: log-probs of the batch.
      reference: not needed; where there is one, the drift from it is logged.
      batch: every valid response is trained on.
    """
    return likelihood.terms(likelihood.nll(policy, batch), policy, reference, batch, {})

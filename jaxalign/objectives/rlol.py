"""R-LoL: reward times the clipped importance ratio of the whole response, A-LoL without a value (arXiv 2305.14718)."""

from jaxalign.objectives.families import likelihood
from jaxalign.types import Batch, Outputs, Terms, sum_responses

REQUIRES = ("reference", "rewards")


def rlol(policy: Outputs, reference: Outputs, batch: Batch, *, clip: float = 0.9) -> Terms:
    """reward * clipped pi / pi_ref * -log pi of every valid response; ratio and reward are constants.

    Equals `wbc` where policy and reference are equal.

    Args:
      policy, reference: log-probs of the same batch.
      batch: every valid response is trained on, both sides of a pair too. Rewards should be >= 0.
      clip: eps, half-width of the band [1 - eps, 1 + eps] that holds the ratio. Published: 0.9 (HH), 0.2 in older runs.

    Raises:
      ValueError: clip is negative or not finite.
    """
    # L = R clip(exp(log pi - log pi_ref), 1 - eps, 1 + eps) nll
    reward, metrics = likelihood.rewards(batch)
    ratio, held = likelihood.clipped_ratio("rlol", sum_responses(likelihood.log_ratios(policy, reference), batch), clip)
    return likelihood.weighted_terms(reward * ratio, policy, reference, batch, metrics | held)

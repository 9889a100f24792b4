"""A-LoL with an importance ratio for every token (arXiv 2305.14718, "A-LoL sequence")."""

from jaxalign.objectives.families import likelihood
from jaxalign.types import Batch, Outputs, Terms, sum_responses

REQUIRES = ("reference", "columns.advantage")


def alol_seq(policy: Outputs, reference: Outputs, batch: Batch, *, clip: float = 0.9) -> Terms:
    """max(A, 0) * sum over tokens of clipped pi / pi_ref * -log pi for every valid response; advantage and ratios are constants.

    Args:
      policy, reference: log-probs of the same batch.
      batch: column "advantage" float32[N, K]; every valid response is trained on, both sides of a pair too.
      clip: eps, half-width of the band [1 - eps, 1 + eps] that holds every ratio. Published: 0.9 (HH), 0.2 in older runs.

    Raises:
      ValueError: clip is negative or not finite, or the column is missing.
    """
    advantage, metrics = likelihood.positive_advantages(batch)
    ratio, held = likelihood.clipped_ratio("alol_seq", likelihood.log_ratios(policy, reference), clip)
    # L = max(A, 0) sum_t clip(p_t / p_ref_t, 1 - eps, 1 + eps) (-log p_t)
    loss = advantage * -sum_responses(ratio * policy.logps, batch)
    return likelihood.terms(loss, policy, reference, batch, metrics, held)

"""Advantage-Leftover-Lunch RL, one importance ratio per response (A-LoL, arXiv 2305.14718, equation 3)."""

from jaxalign.objectives.families import likelihood
from jaxalign.types import Batch, Outputs, Terms, sum_responses

REQUIRES = ("reference", "columns.advantage")


def alol(policy: Outputs, reference: Outputs, batch: Batch, *, clip: float = 0.9) -> Terms:
    """max(A, 0) * clipped pi / pi_ref * -log pi of every valid response; advantage and ratio are constants.

    The ratio is that of the whole response and soon saturates (at 100 tokens, 0.0065 nats per token reach 1.9): see ratios/high.

    Args:
      policy, reference: log-probs of the same batch.
      batch: column "advantage" float32[N, K]; every valid response is trained on, both sides of a pair too.
      clip: eps, half-width of the band [1 - eps, 1 + eps] that holds the ratio. Published: 0.9 (HH), 0.2 in older runs. 0 leaves the ratio
        at 1, which is `alol_ref_free` (in the published code 0 means no clip).

    Raises:
      ValueError: clip is negative or not finite, or the column is missing.
    """
    # L = max(A, 0) clip(exp(log pi - log pi_ref), 1 - eps, 1 + eps) nll
    advantage, metrics = likelihood.positive_advantages(batch)
    ratio, held = likelihood.clipped_ratio("alol", sum_responses(likelihood.log_ratios(policy, reference), batch), clip)
    return likelihood.weighted_terms(advantage * ratio, policy, reference, batch, metrics | held)

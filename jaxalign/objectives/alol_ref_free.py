"""A-LoL without a reference: likelihood weighted by the positive advantage (arXiv 2305.14718, "A-LoL (ref. free)")."""

from jaxalign.objectives.families import likelihood
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("columns.advantage",)


def alol_ref_free(policy: Outputs, reference: Outputs | None, batch: Batch) -> Terms:
    """max(A, 0) * -log pi of every valid response; the advantage is a constant.

    The published HH code leaves A signed here when it draws without priority; the other published trainer clamps it, as this does.

    Args:
      policy: log-probs of the batch.
      reference: not needed; where there is one, the drift from it is logged.
      batch: column "advantage" float32[N, K]; every valid response is trained on, both sides of a pair too.

    Raises:
      ValueError: the column is missing.
    """
    # L = max(A, 0) nll
    advantage, metrics = likelihood.positive_advantages(batch)
    return likelihood.weighted_terms(advantage, policy, reference, batch, metrics)

"""Robust DPO: an unbiased estimate of the clean DPO loss under symmetric label flips (arXiv 2403.00409)."""

import jax

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def rdpo(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Terms:
    """((1 - eps) softplus(-beta h) - eps softplus(beta h)) / (1 - 2 eps) for every pair.

    ln 2 where policy and reference are equal. Unbounded below: its gradient never vanishes, so watch the margin and stop early.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0.
      label_smoothing: eps, the rate of flipped labels, 0 <= eps < 0.5.

    Raises:
      ValueError: label_smoothing out of range.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"objective 'rdpo' got label_smoothing={label_smoothing}; it is the rate of flipped labels, 0 <= eps < 0.5.")
    pair = pairs(policy, reference, batch)
    m = beta * pair.margin
    # L = ((1 - eps) softplus(-m) - eps softplus(m)) / (1 - 2 eps)
    loss = ((1 - label_smoothing) * jax.nn.softplus(-m) - label_smoothing * jax.nn.softplus(m)) / (1 - 2 * label_smoothing)
    return pair_terms(loss, pair, beta=beta)

"""Direct Preference Optimization (arXiv 2305.18290, equation 7)."""

import jax

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def dpo(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.1) -> Terms:
    """-log sigmoid(beta h) for every pair, with h the margin of log-ratios.

    ln 2 where policy and reference are equal.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0. The paper: 0.1 (0.5 for TL;DR).
    """
    pair = pairs(policy, reference, batch)
    # L = softplus(-beta h)
    return pair_terms(jax.nn.softplus(-beta * pair.margin), pair, beta=beta)

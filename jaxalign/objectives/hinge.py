"""Hinge loss on the DPO margin, as in SLiC-HF (arXiv 2305.10425) with a reference (arXiv 2309.06657)."""

import jax.numpy as jnp

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def hinge(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.1) -> Terms:
    """max(0, 1 - beta h) for every pair, with h the margin of log-ratios.

    1 where policy and reference are equal; no gradient where beta h > 1.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0. TRL: 0.1.
    """
    pair = pairs(policy, reference, batch)
    # L = max(0, 1 - beta h)
    return pair_terms(jnp.maximum(0.0, 1.0 - beta * pair.margin), pair, beta=beta)

"""DiscoPOP: a blend of the logistic and the exponential loss that a language model found (arXiv 2406.08414, section 3)."""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def discopop(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.05, tau: float = 0.05) -> Terms:
    """(1 - k) (-log sigmoid(beta h)) + k exp(-beta h) for every pair, with k = sigmoid(beta h / tau) and h the margin of log-ratios.

    (ln 2 + 1) / 2 where policy and reference are equal. Not convex.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0. Usual: 0.05.
      tau: width of the blend, 0 < tau <= 1. Usual: 0.05.

    Raises:
      ValueError: tau out of range.
    """
    if not 0 < tau <= 1:
        raise ValueError(f"objective 'discopop' got tau={tau}; it is the width of the blend, 0 < tau <= 1, beyond which the loss explodes.")
    pair = pairs(policy, reference, batch)
    m = beta * pair.margin
    # L = sigmoid(-m / tau) softplus(-m) + sigmoid(m / tau) exp(-m), the last product as one exponential: exp(-m) alone overflows
    exponential = jnp.exp(jax.nn.log_sigmoid(m / tau) - m)
    return pair_terms(jax.nn.sigmoid(-m / tau) * jax.nn.softplus(-m) + exponential, pair, beta=beta)

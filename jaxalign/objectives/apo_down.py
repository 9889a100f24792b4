"""Anchored preference optimization: lowers chosen responses, and rejected ones more (arXiv 2408.06266, APO-down)."""

import jax

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def apo_down(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.1) -> Terms:
    """sigmoid(r_w) + sigmoid(-(r_w - r_l)) for every pair, with r = beta rho.

    1 where policy and reference are equal. For a model better than its data.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0. Usual: 0.1.
    """
    pair = pairs(policy, reference, batch)
    # L = sigmoid(r_w) + sigmoid(-(r_w - r_l))
    return pair_terms(jax.nn.sigmoid(beta * pair.log_ratios[:, 0]) + jax.nn.sigmoid(-beta * pair.margin), pair, beta=beta)

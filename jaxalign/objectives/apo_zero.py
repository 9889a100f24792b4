"""Anchored preference optimization: raises chosen responses, lowers rejected ones (arXiv 2408.06266, APO-zero)."""

import jax

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def apo_zero(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.1) -> Terms:
    """sigmoid(-r_w) + sigmoid(r_l) for every pair, with r = beta rho.

    1 where policy and reference are equal. For data better than the model. Judged one by one it is KTO with z0 = 0, which is
    `una` with loss="l1".

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0. Usual: 0.1.
    """
    pair = pairs(policy, reference, batch)
    chosen, rejected = beta * pair.log_ratios[:, 0], beta * pair.log_ratios[:, 1]
    # L = sigmoid(-r_w) + sigmoid(r_l)
    return pair_terms(jax.nn.sigmoid(-chosen) + jax.nn.sigmoid(rejected), pair, beta=beta)

"""Noise contrastive alignment on pairs (arXiv 2402.05369, section 4.1)."""

import jax

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def nca(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.01) -> Terms:
    """-log sigmoid(r_w) - log sigmoid(-r_w)/2 - log sigmoid(-r_l)/2 for every pair, with r = beta rho.

    2 ln 2 where policy and reference are equal. It holds the chosen response at r = ln 2 and lowers the rejected one.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0. Usual: 0.01.
    """
    pair = pairs(policy, reference, batch)
    chosen, rejected = beta * pair.log_ratios[:, 0], beta * pair.log_ratios[:, 1]
    # L = softplus(-r_w) + softplus(r_w) / 2 + softplus(r_l) / 2
    return pair_terms(jax.nn.softplus(-chosen) + 0.5 * jax.nn.softplus(chosen) + 0.5 * jax.nn.softplus(rejected), pair, beta=beta)

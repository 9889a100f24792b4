"""Contrastive preference optimization: DPO with a uniform reference, beside the likelihood (arXiv 2401.08417)."""

import jax

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired",)


def cpo(policy: Outputs, reference: Outputs | None, batch: Batch, *, beta: float = 0.1, alpha: float = 1.0) -> Terms:
    """-log sigmoid(beta (log p(chosen) - log p(rejected))) - alpha log p(chosen)/n for every pair, with n tokens.

    ln 2 + alpha * (NLL per token) where both sides are equally likely. Rewards are beta * log p.

    The mean per token is within the response, so that every pair weighs once; TRL takes it over all tokens of the batch.

    Args:
      policy: log-probs of the batch.
      reference: not read.
      batch: paired groups; response 0 is preferred to response 1.
      beta: scale of the margin, > 0. Usual: 0.1.
      alpha: weight of the negative log-likelihood, >= 0. Usual: 1.

    Raises:
      ValueError: alpha is negative.
    """
    if not alpha >= 0:
        raise ValueError(f"objective 'cpo' got alpha={alpha}; it is the weight of the likelihood of the chosen response, >= 0.")
    pair = pairs(policy, None, batch)
    # L = softplus(-beta (log p_w - log p_l)) - alpha log p_w / n_w
    return pair_terms(jax.nn.softplus(-beta * pair.margin) + alpha * pair.nll, pair, beta=beta, metrics={"nll/chosen": pair.nll})

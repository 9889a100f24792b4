"""DPO beside the likelihood of the chosen response (arXiv 2404.19733; called RPO by TRL)."""

import jax

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def dpo_nll(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.1, alpha: float = 1.0) -> Terms:
    """-log sigmoid(beta h) - alpha log p(chosen)/n for every pair, with h the margin of log-ratios and n tokens.

    ln 2 + alpha * (NLL per token) where policy and reference are equal.

    The mean per token is within the response, as in the paper, so that every pair weighs once; TRL takes it over all tokens of the batch.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0. Usual: 0.1.
      alpha: weight of the negative log-likelihood, >= 0; 0 is DPO. Usual: 1.

    Raises:
      ValueError: alpha is negative.
    """
    if not alpha >= 0:
        raise ValueError(f"objective 'dpo_nll' got alpha={alpha}; it is the weight of the likelihood of the chosen response, >= 0.")
    pair = pairs(policy, reference, batch)
    # L = softplus(-beta h) - alpha log p_w / n_w
    return pair_terms(jax.nn.softplus(-beta * pair.margin) + alpha * pair.nll, pair, beta=beta, metrics={"nll/chosen": pair.nll})

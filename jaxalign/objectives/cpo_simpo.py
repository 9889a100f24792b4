"""SimPO (arXiv 2405.14734, equation 6) beside the likelihood of the chosen response, as CPO has it (arXiv 2401.08417)."""

import jax

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired",)


def cpo_simpo(
    policy: Outputs, reference: Outputs | None, batch: Batch, *, beta: float = 2.0, gamma: float = 1.0, alpha: float = 1.0
) -> Terms:
    """-log sigmoid(beta (a_chosen - a_rejected) - gamma) - alpha a_chosen for every pair, with a the mean log-prob per token.

    softplus(gamma) + alpha * (NLL per token) where both sides have the same mean. Rewards are beta * a.

    Args:
      policy: log-probs of the batch.
      reference: not read.
      batch: paired groups; response 0 is preferred to response 1.
      beta: scale of the reward, > 0, as in SimPO.
      gamma: margin that is asked for in units of reward, >= 0, as in SimPO.
      alpha: weight of the negative log-likelihood, >= 0; 0 is SimPO. TRL: 1.

    Raises:
      ValueError: gamma or alpha is negative.
    """
    if not (gamma >= 0 and alpha >= 0):
        raise ValueError(f"objective 'cpo_simpo' got gamma={gamma}, alpha={alpha}; margin and weight of the likelihood are both >= 0.")
    pair = pairs(policy, None, batch).per_token()
    # L = softplus(-(beta (a_w - a_l) - gamma)) - alpha a_w
    return pair_terms(jax.nn.softplus(gamma - beta * pair.margin) + alpha * pair.nll, pair, beta=beta, metrics={"nll/chosen": pair.nll})

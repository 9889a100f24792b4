"""SimPO: a margin of mean log-probs per token, without a reference (arXiv 2405.14734, equation 6)."""

import jax

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired",)


def simpo(policy: Outputs, reference: Outputs | None, batch: Batch, *, beta: float = 2.0, gamma: float = 1.0) -> Terms:
    """-log sigmoid(beta (a_chosen - a_rejected) - gamma) for every pair, with a the mean log-prob per token.

    softplus(gamma) where both sides have the same mean. Rewards are beta * a.

    Args:
      policy: log-probs of the batch.
      reference: not read.
      batch: paired groups; response 0 is preferred to response 1.
      beta: scale of the reward, > 0. The paper: 2 to 2.5; its authors' later advice: up to 10.
      gamma: margin that is asked for in units of reward, >= 0. The authors' code takes gamma / beta instead, 0.1 to 0.8, 0.5 to start with.

    Raises:
      ValueError: gamma is negative.
    """
    if not gamma >= 0:
        raise ValueError(
            f"objective 'simpo' got gamma={gamma}; it is the margin asked for, >= 0 (other code's gamma_beta_ratio times beta)."
        )
    pair = pairs(policy, None, batch).per_token()
    # L = softplus(-(beta (a_w - a_l) - gamma))
    return pair_terms(jax.nn.softplus(gamma - beta * pair.margin), pair, beta=beta)

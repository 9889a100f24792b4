"""Length-normalised DPO: DPO on log-ratios a token (arXiv 2411.15124, section 5; `sigmoid_norm` of TRL)."""

import jax

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def dpo_norm(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 5.0) -> Terms:
    """-log sigmoid(beta g) for every pair, with g the margin of log-ratios a token.

    ln 2 where policy and reference are equal. Rewards are beta * rho a token.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0; about 50 times that of DPO. Tulu 3: 5.
    """
    pair = pairs(policy, reference, batch).per_token()
    # L = softplus(-beta (rho_w / n_w - rho_l / n_l))
    return pair_terms(jax.nn.softplus(-beta * pair.margin), pair, beta=beta)

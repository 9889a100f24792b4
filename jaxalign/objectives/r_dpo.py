"""DPO with a price on length (R-DPO, arXiv 2403.19159)."""

import jax

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def r_dpo(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.1, alpha: float = 0.01) -> Terms:
    """-log sigmoid(beta h + alpha (n_chosen - n_rejected)) for every pair, with h the margin of log-ratios and n tokens.

    -log sigmoid(alpha (n_chosen - n_rejected)) where policy and reference are equal.

    The sign follows from the penalised reward r - alpha n: its optimal policy has r = beta rho + alpha n + a constant of the prompt. So
    that the longer response was chosen is put down to its length, and it is raised less.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0. Often 0.1.
      alpha: price of a token in units of reward, >= 0; 0 is DPO. Scale it with beta and the lengths.

    Raises:
      ValueError: alpha is negative.
    """
    if not alpha >= 0:
        raise ValueError(f"objective 'r_dpo' got alpha={alpha}; it is the price of a token, >= 0; a negative one pays for length.")
    pair = pairs(policy, reference, batch)
    longer = pair.lengths[:, 0] - pair.lengths[:, 1]
    # L = softplus(-(beta h + alpha (n_w - n_l)))
    return pair_terms(jax.nn.softplus(-(beta * pair.margin + alpha * longer)), pair, beta=beta)

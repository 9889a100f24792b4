"""Self-play preference optimization with hard labels (arXiv 2405.00675)."""

from jaxalign.hparams import check_beta
from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def sppo(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.001) -> Terms:
    """(rho_chosen - 1/(2 beta))^2 + (rho_rejected + 1/(2 beta))^2 for every pair, with rho the log-ratio of a response.

    1/(2 beta^2) where policy and reference are equal: a large number whose gradient wants clipping.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0. Usual: 0.001, its 1/eta.

    Raises:
      ValueError: beta is not above 0.
    """
    check_beta(beta)
    pair = pairs(policy, reference, batch)
    half = 0.5 / beta
    # L = (rho_w - 1 / (2 beta))^2 + (rho_l + 1 / (2 beta))^2
    return pair_terms((pair.log_ratios[:, 0] - half) ** 2 + (pair.log_ratios[:, 1] + half) ** 2, pair, beta=beta)

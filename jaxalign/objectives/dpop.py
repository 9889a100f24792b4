"""DPO-Positive: DPO that pays for a chosen response less likely than under the reference (arXiv 2402.13228)."""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def dpop(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.1, lam: float = 50.0) -> Terms:
    """-log sigmoid(beta (h - lam max(0, -rho_chosen))) for every pair, with rho the log-ratio and h its margin.

    ln 2 where policy and reference are equal.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0.
      lam: price of every nat that the chosen response loses against the reference, >= 0; 0 is DPO. Usual: 50.

    Raises:
      ValueError: lam is negative.
    """
    if not lam >= 0:
        raise ValueError(f"objective 'dpop' got lam={lam}; it is the price of a less likely chosen response, >= 0, often 5 to 50.")
    pair = pairs(policy, reference, batch)
    lost = jnp.maximum(0.0, -pair.log_ratios[:, 0])
    # L = softplus(-beta (h - lam max(0, -rho_w)))
    return pair_terms(jax.nn.softplus(-beta * (pair.margin - lam * lost)), pair, beta=beta, metrics={"dpop/lost": lost})

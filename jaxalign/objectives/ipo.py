"""Identity preference optimization: a squared error on the margin (arXiv 2310.12036, equation 17)."""

import jax.numpy as jnp

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def ipo(policy: Outputs, reference: Outputs, batch: Batch, *, tau: float = 0.1, length_normalised: bool = True) -> Terms:
    """(g - 1/(2 tau))^2 for every pair, with g the margin of log-ratios a token, or of whole responses.

    1/(4 tau^2) where policy and reference are equal; least at g = 1/(2 tau), so the margin stays bounded.

    The paper prints whole responses; its authors' results, and TRL since January 2024, take the mean per token. tau means another strength
    in each: with T tokens per response, 1/(2 tau) of the whole is 1/(2 tau T) per token. Rewards are tau * rho of whole responses in both.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      tau: strength of the pull to the reference, > 0; TRL and HALOs: 0.1.
      length_normalised: True for the mean per token, False for whole responses.

    Raises:
      ValueError: tau is not above 0.
    """
    if not tau > 0:
        raise ValueError(f"objective 'ipo' got tau={tau}; it is the strength of the pull to the reference, > 0, often 0.01 to 0.5.")
    pair = pairs(policy, reference, batch)
    g = pair.per_token().margin if length_normalised else pair.margin
    # L = (g - 1 / (2 tau))^2
    return pair_terms((g - 1 / (2 * tau)) ** 2, pair, beta=tau, metrics={"margins/g": g, "margins/target": jnp.full_like(g, 1 / (2 * tau))})

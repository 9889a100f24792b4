"""Efficient exact optimization on pairs: the reverse KL between the policy's and the label's preference (arXiv 2402.00856, section 3.2)."""

import math

import jax

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def exo(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.1, label_smoothing: float = 1e-3) -> Terms:
    """KL(p || q) for every pair, with p = (sigmoid(beta h), sigmoid(-beta h)) and q = (1 - eps, eps) the smoothed label.

    -ln 2 - (ln(1 - eps) + ln eps) / 2 where policy and reference are equal.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0. Usual: 0.1.
      label_smoothing: eps, 0 < eps < 0.5; with 0 the divergence is infinite. TRL: 1e-3.

    Raises:
      ValueError: label_smoothing out of range.
    """
    if not 0 < label_smoothing < 0.5:
        raise ValueError(f"objective 'exo' got label_smoothing={label_smoothing}; 0 < eps < 0.5, as the divergence is infinite at 0.")
    pair = pairs(policy, reference, batch)
    m = beta * pair.margin
    # L = sigmoid(m) (log sigmoid(m) - log(1 - eps)) + sigmoid(-m) (log sigmoid(-m) - log eps)
    agree = jax.nn.sigmoid(m) * (jax.nn.log_sigmoid(m) - math.log1p(-label_smoothing))
    differ = jax.nn.sigmoid(-m) * (jax.nn.log_sigmoid(-m) - math.log(label_smoothing))
    return pair_terms(agree + differ, pair, beta=beta)

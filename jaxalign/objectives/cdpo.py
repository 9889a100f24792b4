"""Conservative DPO: DPO under label noise, by smoothing (E. Mitchell, "A note on DPO with noisy preferences", equations 3 and 4)."""

import jax

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def cdpo(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Terms:
    """Cross-entropy of sigmoid(beta h) against a label that is right with probability 1 - label_smoothing.

    ln 2 where policy and reference are equal; least at beta h = log((1 - eps) / eps), so the margin stays bounded.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0.
      label_smoothing: eps, the share of flipped labels, 0 <= eps < 0.5.

    Raises:
      ValueError: label_smoothing out of range.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"objective 'cdpo' got label_smoothing={label_smoothing}; it is the share of flipped labels, 0 <= eps < 0.5.")
    pair = pairs(policy, reference, batch)
    m = beta * pair.margin
    # L = (1 - eps) softplus(-m) + eps softplus(m)
    return pair_terms((1 - label_smoothing) * jax.nn.softplus(-m) + label_smoothing * jax.nn.softplus(m), pair, beta=beta)

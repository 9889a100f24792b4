"""Weighted Preference Optimization (arXiv 2406.11827): DPO on pairs weighed by how likely the policy is to write them."""

import jax
import jax.numpy as jnp

from jaxalign.lm_head.distributions import token_collision
from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Batch, Outputs, Terms, sum_responses

REQUIRES = ("paired", "reference")


def wpo(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.1) -> Terms:
    """w_chosen w_rejected softplus(-beta h) for every pair, with w = exp(mean over tokens of log p(token) - log sum_v p_v^2), constant.

    w is about 1 for a response that the policy would sample and 0 for one far from it; in single tokens it may be above 1. The mean is
    over all pairs, whatever their weights.

    Args:
      policy, reference: log-probs of the same batch; the policy's hidden states and head are read.
      batch: paired groups; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0.
    """
    pair = pairs(policy, reference, batch)
    head = {"vocab_size": policy.vocab_size, "softcap": policy.softcap}
    collision = token_collision(policy.hidden, policy.unembed, batch.slots >= 0, **head)
    # log w = (1/n) sum_t (log p_t - log sum_v p_v^2)
    log_weights = (pair.logps - sum_responses(collision, batch)[:, :2]) / jnp.maximum(pair.lengths, 1)
    weights = jax.lax.stop_gradient(jnp.exp(log_weights))
    # L = w_chosen w_rejected softplus(-beta h)
    terms = pair_terms(weights[:, 0] * weights[:, 1] * jax.nn.softplus(-beta * pair.margin), pair, beta=beta)
    terms.metrics["weights/chosen"] = weights[:, 0], pair.weight
    terms.metrics["weights/rejected"] = weights[:, 1], pair.weight
    return terms

"""Binary classifier optimization: a classifier of responses whose logit is the shifted reward (arXiv 2404.04656)."""

import jax.numpy as jnp

from jaxalign.objectives.families.responses import bce, mean_reward, response_terms, responses, reward_statistics, running_means
from jaxalign.types import Array, Batch, Outputs, Terms

REQUIRES = ("reference", "rewards")


def statistics(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float) -> dict[str, tuple[Array, Array]]:
    """The rewards of all responses, and whether there are any."""
    return reward_statistics(responses(policy, reference, batch), beta=beta)


def carry(previous: dict[str, Array], current: dict[str, Array], step: Array, *, decay: float) -> dict[str, Array]:
    """Running means of both; their quotient is the mean reward of the batches so far."""
    return running_means(previous, current, decay)


def bco(
    policy: Outputs,
    reference: Outputs,
    batch: Batch,
    statistics: dict[str, Array],
    *,
    beta: float = 0.01,
    decay: float = 0.9,
    threshold: float = 0.5,
) -> Terms:
    """-log sigmoid(r - delta) for a good response, -log sigmoid(delta - r) for a bad one, with r = beta rho and delta the mean reward.

    ln 2 where policy and reference are equal. Pairs count as two responses, with rewards 1 and 0 unless the source gives them
    scores, so a pair's loss is the mean of both sides; the pair form of TRL is their sum.

    Args:
      policy, reference: log-probs of the same batch.
      batch: any groups.
      statistics: "rewards" and "seen", running means over the steps so far, this one included; constants.
      beta: strength of the pull to the reference, > 0. Usual: 0.01.
      decay: of the running mean, 0 <= decay < 1; 0 is the mean of this step. TRL keeps the mean of all rewards since the start instead.
      threshold: a response of a reward above it is good.

    Raises:
      ValueError: decay out of range.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"objective 'bco' got decay={decay}; the part of the running mean that a step keeps is 0 <= decay < 1.")
    each = responses(policy, reference, batch)
    good = (batch.reward > threshold).astype(jnp.float32)
    delta = mean_reward(statistics)
    u = beta * each.log_ratios - delta
    # L = softplus(-(r - delta)) or softplus(r - delta)
    terms = response_terms(bce(u, good), each, u, good, beta=beta)
    return terms.replace(metrics=terms.metrics | {"offset": (jnp.full_like(u, -delta), each.weight)})

"""Kahneman-Tversky optimization: every response is desirable or not, by itself (arXiv 2402.01306, equation 8)."""

import jax.numpy as jnp

from jaxalign.objectives.families.responses import l1, mismatched_log_ratios, response_terms, responses
from jaxalign.types import Array, Batch, Outputs, Terms

REQUIRES = ("reference", "mismatched", "rewards")


def statistics(policy: Outputs, reference: Outputs, batch: Batch) -> dict[str, tuple[Array, Array]]:
    """The log-ratios of responses to other prompts; their mean stands for KL(policy || reference)."""
    return {"kl": mismatched_log_ratios(policy, reference, batch)}


def kto(
    policy: Outputs,
    reference: Outputs,
    batch: Batch,
    statistics: dict[str, Array],
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    threshold: float = 0.5,
) -> Terms:
    """weight * sigmoid(-u) for a desirable response, weight * sigmoid(u) for an undesirable one, with u = beta (rho - z0).

    Half the weight where policy and reference are equal. z0 = max(0, the mean of rho over mismatched responses), one number for the whole
    step, clamped after the mean. The loss is a mean over responses, not over weights. A batch may hold one kind only; pairs count as two
    responses, with rewards 1 and 0 unless the source gives them scores (feedback="label" makes thumbs of those).

    Args:
      policy, reference: log-probs of the same batch.
      batch: any groups, with the column "mismatched".
      statistics: "kl", the mean over the global batch.
      beta: strength of the pull to the reference, > 0. The paper: 0.1.
      desirable_weight, undesirable_weight: > 0. The paper: (weight * number) of the desirable 1 to 3/2 times that of the undesirable (4/3
        in its first version), the smaller weight 1.
      threshold: a response of a reward above it is desirable.

    Raises:
      ValueError: a weight is not above 0; no column "mismatched".
    """
    if not (desirable_weight > 0 and undesirable_weight > 0):
        raise ValueError(f"objective 'kto' got desirable_weight={desirable_weight}, undesirable_weight={undesirable_weight}; both are > 0.")
    each = responses(policy, reference, batch)
    desirable = batch.reward > threshold
    z0 = jnp.maximum(statistics["kl"], 0.0)
    u = beta * (each.log_ratios - z0)
    # L = lambda_D sigmoid(-u) or lambda_U sigmoid(u)
    loss = jnp.where(desirable, desirable_weight, undesirable_weight) * l1(u, desirable.astype(jnp.float32))
    terms = response_terms(loss, each, u, desirable.astype(jnp.float32), beta=beta)
    step = {"z0": z0, "z0/raw": statistics["kl"], "z0/clamped": (statistics["kl"] < 0).astype(jnp.float32)}
    return terms.replace(metrics=terms.metrics | {name: (jnp.full_like(each.weight, value), each.weight) for name, value in step.items()})

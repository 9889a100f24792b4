"""A-LoL KL as its published code computes it (arXiv 2305.14718, equation 6), which is no KL penalty; that is `alol_kl`."""

import jax

from jaxalign.objectives.families import likelihood
from jaxalign.types import Batch, Outputs, Terms, sum_responses

REQUIRES = ("reference", "columns.advantage")


def alol_kl_published(policy: Outputs, reference: Outputs, batch: Batch, *, kl_beta: float = 0.2) -> Terms:
    """max(A, 0) * -log pi + kl_beta * (log pi - log pi_ref) of every valid response.

    The reference has no gradient here, so this is likelihood weighted by max(A, 0) - kl_beta: responses of less advantage than kl_beta are
    pushed down, and on data from the reference the added term rewards moving away from it. For comparison with published runs only.

    Args:
      policy, reference: log-probs of the same batch.
      batch: column "advantage" float32[N, K]; every valid response is trained on, both sides of a pair too.
      kl_beta: weight of the added term, >= 0. Published: 0.2.

    Raises:
      ValueError: kl_beta is negative, or the column is missing.
    """
    if not kl_beta >= 0:
        raise ValueError(f"objective 'alol_kl_published' got kl_beta={kl_beta}; it must be >= 0, 0 being alol_ref_free.")
    advantage, metrics = likelihood.positive_advantages(batch)
    drift = sum_responses(policy.logps - jax.lax.stop_gradient(reference.logps), batch)
    # L = max(A, 0) nll + kl_beta (log pi - log pi_ref)
    return likelihood.terms(advantage * likelihood.nll(policy, batch) + kl_beta * drift, policy, reference, batch, metrics)

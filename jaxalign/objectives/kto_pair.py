"""KTO on pairs: each side against the mean log-ratio of the other side (the paired KTO of turbo-alignment)."""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Array, Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def statistics(policy: Outputs, reference: Outputs, batch: Batch) -> dict[str, tuple[Array, Array]]:
    """The log-ratios of both sides; their means stand for KL(policy || reference) there."""
    pair = pairs(policy, reference, batch)
    return {"chosen": (pair.log_ratios[:, 0], pair.weight), "rejected": (pair.log_ratios[:, 1], pair.weight)}


def kto_pair(policy: Outputs, reference: Outputs, batch: Batch, statistics: dict[str, Array], *, beta: float = 0.1) -> Terms:
    """(sigmoid(-beta (rho_w - KL_l)) + sigmoid(beta (rho_l - KL_w))) / 2, with KL = max(0, the mean of rho over that side).

    1/2 where policy and reference are equal. Needs no mismatched responses, unlike `kto`. The KLs are constants over the whole step; where
    published code lets the gradient through them, the gradient of the chosen side doubles, and depends on how a batch is split.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups; response 0 is preferred to response 1.
      statistics: "chosen" and "rejected", means over the global batch.
      beta: strength of the pull to the reference, > 0. Usual: 0.1.
    """
    pair = pairs(policy, reference, batch)
    kl = {side: jnp.maximum(statistics[side], 0.0) for side in ("chosen", "rejected")}
    chosen, rejected = beta * (pair.log_ratios[:, 0] - kl["rejected"]), beta * (pair.log_ratios[:, 1] - kl["chosen"])
    # L = (sigmoid(-beta (rho_w - KL_l)) + sigmoid(beta (rho_l - KL_w))) / 2
    loss = (jax.nn.sigmoid(-chosen) + jax.nn.sigmoid(rejected)) / 2
    return pair_terms(loss, pair, beta=beta, metrics={f"kl/{side}": jnp.full_like(loss, value) for side, value in kl.items()})

"""Multi-objective DPO: preferences of one objective under frozen rewards of the others (arXiv 2310.03708, equation 11)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxalign.objectives.families.pairs import pair_terms, pairs, ranked_right
from jaxalign.types import Batch, Outputs, Terms, column

REQUIRES = ("paired", "reference")


def requires(*, margins: tuple) -> tuple[str, ...]:
    """The columns of the other objectives."""
    return tuple(f"columns.{name}" for name in margins)


def modpo(
    policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.1, weights: tuple = (0.5, 0.5), margins: tuple = ("margin",)
) -> Terms:
    """-log sigmoid(z), with z the margin of the reward that the policy implies for the objective whose pairs these are.

    z = (beta h - sum_j w_j (r_j(chosen) - r_j(rejected))) / w_0. Only weights / beta matters: the weights need not sum to 1, and (1, 0)
    is DPO. A small w_0 multiplies the margins by w_j / w_0: watch margins/conflict and margins/saturated.

    Args:
      policy, reference: log-probs of the same batch.
      batch: paired groups of the objective of weights[0]; response 0 is preferred to response 1.
      beta: strength of the pull to the reference, > 0. The paper: 0.1 and 0.5.
      weights: w_0 of the objective whose pairs are in the batch, > 0, then w_j of every margin. (The paper writes w_0 last.)
      margins: columns float32[N, K] with the rewards r_j of the other objectives in the order of weights[1:], constants. An implicit
        reward beta_m (log pi_m - log pi_ref) has its own beta_m in the column.

    Raises:
      ValueError: w_0 is not above 0, weights and margins do not match, or a column is missing.
    """
    # L = softplus(-z)
    return margin_terms(lambda z: jax.nn.softplus(-z), "modpo", policy, reference, batch, beta=beta, weights=weights, margins=margins)


def margin_terms(
    loss: Callable, name: str, policy: Outputs, reference: Outputs, batch: Batch, *, beta: float, weights: tuple, margins: tuple
) -> Terms:
    """Terms of a loss, a function of z float32[N], for the objective `name`; arguments and errors as in `modpo`.

    Metrics: rewards/* judge the collective reward beta * rho as for DPO, implied/* the reward of w_0 alone (a tie counts as wrong);
    margins/difference is sum_j w_j (r_j(chosen) - r_j(rejected)), margins/conflict the share of pairs where it speaks against the label,
    margins/saturated that where |z| > 30.
    """
    if not weights or not all(isinstance(weight, int | float) for weight in weights) or not weights[0] > 0:
        raise ValueError(
            f"objective {name!r} got weights={weights}; they are numbers, and the first, of the objective whose pairs are in the batch, "
            "must be above 0. The policy of weight 0 is the DPO model of the other objective."
        )
    if any(weight < 0 for weight in weights):
        raise ValueError(f"objective {name!r} got weights={weights}; a weight is at least 0: turn the margin's sign to lower a reward.")
    if len(weights) != 1 + len(margins):
        raise ValueError(
            f"objective {name!r} got weights={weights} for margins={margins}; give the weight of the pairs, then one for every margin."
        )
    pair = pairs(policy, reference, batch)
    others = jnp.zeros_like(pair.log_ratios)
    for weight, margin in zip(weights[1:], margins, strict=True):
        others += weight * jax.lax.stop_gradient(column(batch, margin)[:, :2])
    # R = (beta rho - sum_j w_j r_j) / w_0
    implied = (beta * pair.log_ratios - others) / weights[0]
    z = implied[:, 0] - implied[:, 1]
    difference = others[:, 0] - others[:, 1]
    metrics = {
        "implied/accuracies": ranked_right(z),
        "implied/margins": z,
        "implied/chosen": implied[:, 0],
        "implied/rejected": implied[:, 1],
        "margins/difference": difference,
        "margins/conflict": difference < 0,
        "margins/saturated": jnp.abs(z) > 30,
    }
    return pair_terms(loss(z), pair, beta=beta, metrics={name: value.astype(jnp.float32) for name, value in metrics.items()})

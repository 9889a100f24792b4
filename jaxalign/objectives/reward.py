"""A reward model: Bradley-Terry over pairs and lists (arXiv 2203.02155, equation 1), with Llama 2's margin and a centering term."""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families.pairs import ranked_right
from jaxalign.types import Array, Batch, Outputs, Terms, column, response_rewards

REQUIRES = ("ranked", "reward_head", "no_logps")


def requires(*, margin_column: str) -> tuple[str, ...]:
    """The column of the margin."""
    return () if margin_column in ("", "reward") else (f"columns.{margin_column}",)


def reward(
    policy: Outputs,
    reference: Outputs | None,
    batch: Batch,
    *,
    margin: float = 0.0,
    margin_column: str = "",
    centering: float = 0.0,
    label_smoothing: float = 0.0,
) -> Terms:
    """-log sigmoid(z) of every two responses of different feedback, averaged over those of a prompt; every prompt counts once.

    z = r_better - r_worse - margin. With label smoothing e: (1 - e) softplus(-z) + e softplus(z). Responses of equal feedback are not
    compared, and a prompt without two different ones has weight 0.

    Args:
      policy: rewards float32[N, K] of the reward head.
      reference: not read.
      batch: pairs, or lists of at least two responses; their feedback gives the order, so filler may stand anywhere.
      margin: by how much the better one must be ahead, >= 0.
      margin_column: a column float32[N, K], or "reward", the feedback; its difference within two responses is added to the margin, as the
        gap of their grades (arXiv 2307.09288, equation 2). "": none.
      centering: weight of (r_better + r_worse)^2, >= 0, which pins the constant that pairs leave free (arXiv 2312.09244, equation 2: 0.01).
      label_smoothing: the share of judgements that are wrong, in [0, 1/2).

    Raises:
      ValueError: an option out of its range, groups of one response, no reward head, or the column is missing.
    """
    _check(margin=margin, centering=centering, label_smoothing=label_smoothing, count=batch.valid.shape[1])
    rewards, feedback = response_rewards(policy), jax.lax.stop_gradient(batch.reward)
    better = ((feedback[:, :, None] > feedback[:, None]) & batch.valid[:, :, None] & batch.valid[:, None]).astype(jnp.float32)
    difference, wanted = _gaps(rewards), jnp.float32(margin)
    if margin_column:
        wanted += _gaps(feedback if margin_column == "reward" else jax.lax.stop_gradient(column(batch, margin_column)))
    # L = (1 - e) softplus(-z) + e softplus(z) + c (r_better + r_worse)^2 = softplus(-z) + e z + ...
    z = jnp.where(better > 0, difference - wanted, 0.0)
    total = jnp.where(better > 0, rewards[:, :, None] + rewards[:, None], 0.0)
    loss = jax.nn.softplus(-z) + label_smoothing * z + (centering * jnp.square(total) if centering else 0.0)
    pairs, valid = better.sum((1, 2)), batch.valid.astype(jnp.float32)
    metrics = {
        "rewards/accuracies": (ranked_right(difference), better),
        "rewards/margins": (difference, better),
        "rewards/chosen": (jnp.broadcast_to(rewards[:, :, None], better.shape), better),
        "rewards/rejected": (jnp.broadcast_to(rewards[:, None], better.shape), better),
        "rewards/mean": (rewards, valid),
        "rewards/square": (rewards**2, valid),
    }
    return Terms((loss * better).sum((1, 2)) / jnp.maximum(pairs, 1.0), (pairs > 0).astype(jnp.float32), metrics)


def _gaps(x: Array) -> Array:
    """x_i - x_j of every two responses: [N, K] -> [N, K, K]."""
    return x[:, :, None] - x[:, None]


def _check(*, margin: float, centering: float, label_smoothing: float, count: int) -> None:
    for name, value in (("margin", margin), ("centering", centering)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"objective 'reward' got {name}={value}; it must be >= 0 and finite, 0 being none.")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"objective 'reward' got label_smoothing={label_smoothing}; it is the share of wrong labels, in [0, 1/2).")
    if count < 2:
        raise ValueError("objective 'reward' got groups of one response; it compares at least two: give pairs or ranked lists.")

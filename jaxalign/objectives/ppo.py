"""Proximal Policy Optimization with a critic (arXiv 1707.06347; for language models arXiv 1909.08593 and 2203.02155)."""

import jax.numpy as jnp

from jaxalign.objectives.families import adaptive_kl, surrogate
from jaxalign.types import Array, Batch, Outputs, Terms, token_column, token_values

OF_ROLLOUTS = (surrogate.LOGPS, "rollout_values", "token_advantage", "token_return")
REQUIRES = ("reference", "critic", *(f"token_columns.{name}" for name in OF_ROLLOUTS))
requires = adaptive_kl.requires


def statistics(policy: Outputs, reference: Outputs, batch: Batch, *, target_kl: float) -> dict[str, tuple[Array, Array]]:
    """What the adaptive strength of the KL is made of, where there is a target."""
    return adaptive_kl.statistics(reference, batch) if target_kl else {}


def carry(previous: dict[str, Array], current: dict[str, Array], step: Array, *, target_kl: float, kl_rate: float) -> dict[str, Array]:
    """The adaptive strength after this step's batch."""
    return adaptive_kl.carry(previous, current, target_kl=target_kl, rate=kl_rate) if target_kl else {}


def ppo(
    policy: Outputs,
    reference: Outputs,
    batch: Batch,
    statistics: dict[str, Array],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 0.0,
    value_clip: float = 0.2,
    value_coef: float = 0.1,
    entropy_coef: float = 0.0,
    beta: float = 0.0,
    kl: str = "k3",
    target_kl: float = 0.0,
    kl_rate: float = adaptive_kl.RATE,
    reduction: str = "token_mean",
) -> Terms:
    """-min(rho A, clip(rho) A) + value_coef / 2 max((V - G)^2, (V_clipped - G)^2) - entropy_coef H + beta kl at every token.

    rho is the ratio to the policy that drew the tokens, 1 before the first step on them; A the advantage and G the return of data.rollout,
    where the KL to the reference is a part of the reward. V_clipped stays within value_clip of the value at the rollout.

    Args:
      policy, reference: log-probs; the policy's critic.
      batch, statistics: a rollout with feedback "gae"; the adaptive strength of the KL.
      clip_low, clip_high: the ratio stays in [1 - clip_low, 1 + clip_high]; 0.2, DAPO 0.28 above.
      dual_clip: the largest ratio that counts where A < 0, > 1, often 3; 0: none.
      value_clip: largest change of a value; 0: none.
      value_coef: weight of the critic's loss. It trains the decoder that the critic reads, its own or the policy's.
      entropy_coef: weight of the entropy of the next-token distributions; above 0 costs one more pass through the head.
      beta: weight of the KL in the loss; one in the reward belongs to data.rollout.
      kl: its estimate: "k3", or "k2", which has the gradient of KL(policy || reference).
      target_kl: nats per response that the KL of rollouts is steered to, by a factor on the strengths here and in the reward; 0: none.
      kl_rate: of the steering, up to 1: each batch of a rollout makes the factor grow by kl_rate * clip(KL / target_kl - 1, -0.2, 0.2).
      reduction: "token_mean" or "response_mean".

    Raises:
      ValueError: an option out of its range, no critic, or a column is missing.
    """
    clips = {"clip_low": clip_low, "clip_high": clip_high, "dual_clip": dual_clip}
    weights = {"value_clip": value_clip, "value_coef": value_coef, "entropy_coef": entropy_coef}
    surrogate.check("ppo", **clips, **weights, beta=beta, kl=kl, reduction=reduction)
    adaptive_kl.check("ppo", target_kl=target_kl, kl_rate=kl_rate)
    old, advantage, returns = (token_column(batch, name) for name in OF_ROLLOUTS[1:])
    loss, metrics = surrogate.clipped(surrogate.log_ratios(policy, batch), advantage, **clips)
    of_values, more = surrogate.value_loss(token_values(policy), old, returns, value_clip=value_clip)
    metrics |= more | {"loss/policy": loss, "loss/value": of_values, "advantages/mean": advantage, "advantages/square": advantage**2}
    loss = loss + value_coef * of_values
    if entropy_coef:
        metrics["entropy"] = surrogate.entropy(policy, batch)
        loss = loss - entropy_coef * metrics["entropy"]
    if target_kl:
        metrics["kl/factor"] = jnp.full_like(loss, adaptive_kl.factor(statistics))
    if beta:
        metrics["loss/kl"] = surrogate.kl_loss(policy, reference, kl)
        loss = loss + beta * adaptive_kl.factor(statistics) * metrics["loss/kl"]
    return surrogate.terms(loss, policy, reference, batch, metrics, reduction=reduction)

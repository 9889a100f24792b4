"""Columns of a rollout that the devices compute, once per window, from the rewards and what policy and reference say of the samples.

A function is `(policy, reference, batch, statistics, *, options) -> {name: column}`; the batch has the column REWARD, the policy is the one
that drew the window, and statistics are what the objective carries. Its keyword arguments are options of data.rollout.

What needs all batches of the window is a function `(batches, made, *, options) -> {name: column}` that is called after them: their arrays
are stacked, and made bool[B] says which of them are of this window.
"""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families import adaptive_kl
from jaxalign.objectives.families.kl_estimates import k1
from jaxalign.rollout import advantages
from jaxalign.types import Array, Batch, Outputs, at_tokens, column, token_values

REWARD = "rollout_reward"  # float32[N, K]; the reward of each response, lowered where its end is missing


def group_advantages(
    policy: Outputs,
    reference: Outputs | None,
    batch: Batch,
    statistics: dict[str, Array],
    *,
    baseline: str = "mean",
    scale: str = "std",
    beta: float = 0.0,
) -> dict[str, Array]:
    """{"advantage": float32[N, K]}: of each response among the samples of its prompt, for GRPO, RLOO and REINFORCE.

    Args:
      baseline: what a reward is compared with: "mean" of the prompt's samples, "leave_one_out", the mean of the others, or "none".
      scale: what the difference is divided by: "std" of the prompt's rewards, or "none" (Dr. GRPO, and without a baseline).
      beta: strength of the KL to the reference in the reward, of whole responses (RLOO); 0: none.
    """
    rewards = column(batch, REWARD)
    if beta:
        rewards = advantages.with_kl(rewards, k1(policy.logps, reference.logps), batch, beta=beta * adaptive_kl.factor(statistics))
    return {"advantage": advantages.group_advantage(rewards, batch.valid, baseline=baseline, scale=scale)}


def token_advantages(
    policy: Outputs,
    reference: Outputs | None,
    batch: Batch,
    statistics: dict[str, Array],
    *,
    beta: float = 0.05,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> dict[str, Array]:
    """{"token_advantage", "token_return", "rollout_values"}: float32[R, T] each, for PPO, see `advantages.gae`; not whitened.

    Args:
      beta: strength of the KL to the reference in the reward, k1 of every token; 0: none. An objective with a target KL steers it.
      gamma: discount of rewards to come, 0 to 1.
      lam: 1 takes the whole return as the advantage, 0 one step and the critic.
    """
    values = token_values(policy)
    kl = k1(policy.logps, reference.logps) if beta else 0.0 * policy.logps
    rewards = advantages.token_rewards(column(batch, REWARD), kl, batch, beta=beta * adaptive_kl.factor(statistics))
    advantage, returns = advantages.gae(rewards, values, batch, gamma=gamma, lam=lam)
    return {"token_advantage": advantage, "token_return": returns, "rollout_values": values}


def whitened(batches: Batch, made: Array, *, whiten: bool = True) -> dict[str, Array]:
    """{"token_advantage": float32[B, R, T]}: of a whole window, so that the number of its batches changes nothing; {} without whitening.

    Args:
      whiten: advantages get mean 0 and variance 1 over all tokens of the window; returns do not.
    """
    if not whiten:
        return {}
    trained = jax.lax.map(lambda batch: at_tokens(batch.valid.astype(jnp.float32), batch) > 0, batches)
    return {"token_advantage": advantages.whiten(batches.columns["token_advantage"], trained & made[:, None, None])}


def check_group_advantages(*, baseline: str, scale: str, beta: float) -> None:
    """Raises ValueError for an option of `group_advantages` that is out of its range, or goes with none of the others."""
    advantages.check(baseline=baseline, scale=scale)
    _check_beta(beta)


def check_token_advantages(*, beta: float, gamma: float, lam: float, whiten: bool) -> None:
    """Raises ValueError for an option of `token_advantages` or `whitened` that is out of its range."""
    for name, value in (("gamma", gamma), ("lam", lam)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} is not in [0, 1].")
    _check_beta(beta)


def _check_beta(beta):
    if beta < 0:
        raise ValueError(f"beta={beta} is below 0; it is the strength of the pull to the reference, 0 for none.")

"""From rewards of responses to advantages: of whole responses against their group, or of tokens against a critic.

Groups: GRPO (arXiv 2402.03300), Dr. GRPO (arXiv 2503.20783), RLOO (arXiv 2402.14740). Tokens: PPO's shaped rewards with the KL to the
reference in them (arXiv 1909.08593) and generalised advantage estimates (arXiv 1506.02438). All results are constants to an objective.
"""

import jax
import jax.numpy as jnp

from jaxalign.types import Array, Batch, at_tokens, max_responses, sum_responses

BASELINES = ("mean", "leave_one_out", "none")
SCALES = ("std", "none")
STD_EPS = 1e-4  # added to a group's standard deviation, as in published GRPO code: groups of almost equal rewards do not explode
VARIANCE_EPS = 1e-8  # added to a variance before its root


def check(*, baseline: str, scale: str) -> None:
    """Raises ValueError for an unknown baseline or scale, and for a scale without a baseline."""
    for name, value, known in (("baseline", baseline, BASELINES), ("scale", scale, SCALES)):
        if value not in known:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(known)}.")
    if baseline == "none" and scale != "none":
        raise ValueError(f"scale={scale!r} with baseline='none' divides by almost 0 where rewards are equal; set scale='none'.")


def group_advantage(rewards: Array, valid: Array, *, baseline: str = "mean", scale: str = "std") -> Array:
    """The advantage of each response over its group: float32[N, K], 0 where not valid, and where nothing is left to compare with.

    Against a baseline of the group it is exactly 0 where all rewards are equal, whatever their size.

    Args:
      rewards: float32[N, K]; anything where not valid.
      valid: bool[N, K]; only valid responses count for baseline and scale.
      baseline: what is subtracted: "mean" of the group, "leave_one_out" (the mean of the others) or "none".
      scale: "std" divides by the group's standard deviation (of n - 1) plus 1e-4, so that every prompt weighs alike; "none" does not.

    Raises:
      ValueError: as of `check`.
    """
    check(baseline=baseline, scale=scale)
    count, rewards = valid.sum(1, keepdims=True), rewards.astype(jnp.float32)
    if baseline != "none":  # differences are small numbers: sums of them round neither equal rewards apart nor large ones together
        rewards = rewards - jnp.max(jnp.where(valid, rewards, -jnp.inf), 1, keepdims=True)
    rewards = jnp.where(valid, rewards, 0.0)
    total = rewards.sum(1, keepdims=True)
    mean = total / jnp.maximum(count, 1)
    constant = {"mean": mean, "leave_one_out": (total - rewards) / jnp.maximum(count - 1, 1), "none": jnp.zeros_like(mean)}[baseline]
    compared = valid if baseline == "none" else valid & (count > 1)
    advantage = jnp.where(compared, rewards - constant, 0.0)
    if scale == "none":
        return advantage
    squares = jnp.where(valid, (rewards - mean) ** 2, 0.0).sum(1, keepdims=True)
    return advantage / (jnp.sqrt(squares / jnp.maximum(count - 1, 1)) + STD_EPS)


def with_kl(rewards: Array, kl: Array, batch: Batch, *, beta: float | Array) -> Array:
    """R - beta * (the sum of kl over the response's tokens): float32[N, K], what RLOO and REINFORCE maximise.

    Args:
      rewards: float32[N, K].
      kl: float32[R, T]; estimates of tokens, k1 of log-probs of the policy that drew them and of the reference, see `kl_estimates`.
      batch: its slots and valid are read.
      beta: strength of the pull to the reference.
    """
    return rewards - beta * sum_responses(kl, batch)


def token_rewards(rewards: Array, kl: Array, batch: Batch, *, beta: float | Array) -> Array:
    """-beta * kl at every scored token, and the response's reward on top at its last one: float32[R, T], 0 where not scored.

    Arguments as in `with_kl`; their sum over a response is what `with_kl` returns. Rewards of responses that are not valid count as 0.
    """
    ends = at_tokens(max_responses(batch.positions + 1, batch), batch) == batch.positions + 1
    at_end = at_tokens(jnp.where(batch.valid, rewards, 0.0).astype(jnp.float32), batch)
    scored = batch.slots >= 0
    return jnp.where(scored, jnp.where(ends, at_end, 0.0) - beta * kl, 0.0)


def gae(rewards: Array, values: Array, batch: Batch, *, gamma: float = 1.0, lam: float = 0.95) -> tuple[Array, Array]:
    """(advantages, returns): float32[R, T] twice, 0 where not scored. Returns are advantages + values, before any whitening.

    delta_t = reward_t + gamma V_next - V_t and A_t = delta_t + gamma lam A_next, where "next" is the response's next scored token, and both
    are 0 after its last one. Tokens between scored ones of a response are passed over; gamma and lam count scored tokens.

    Args:
      rewards: float32[R, T], as of `token_rewards`.
      values: float32[R, T]; the critic's value before the token is drawn.
      batch: its slots are read: one response, one slot.
      gamma: discount, in [0, 1].
      lam: in [0, 1]; 1 is the whole return less the value, 0 one step.
    """

    def back(carry, token):
        reward, value, slot = token
        advantage_next, value_next, slot_next = carry
        goes_on = slot == slot_next
        delta = reward + gamma * jnp.where(goes_on, value_next, 0.0) - value
        advantage = delta + gamma * lam * jnp.where(goes_on, advantage_next, 0.0)
        scored = slot >= 0
        kept = tuple(jnp.where(scored, new, old) for new, old in zip((advantage, value, slot), carry, strict=True))
        return kept, jnp.where(scored, advantage, 0.0)

    tokens = tuple(x.T for x in (rewards.astype(jnp.float32), values.astype(jnp.float32), batch.slots))
    start = jnp.zeros_like(tokens[0][0]), jnp.zeros_like(tokens[1][0]), jnp.full_like(tokens[2][0], -1)
    advantages = jax.lax.scan(back, start, tokens, reverse=True)[1].T
    return advantages, jnp.where(batch.slots >= 0, advantages + values, 0.0)


def whiten(x: Array, mask: Array) -> Array:
    """x with mean 0 and variance 1 (of n - 1, plus 1e-8) over the whole mask: float32 like x, 0 outside; 0 where the mask holds one number.

    Args:
      x: numbers of any shape; anything outside the mask.
      mask: bool, the shape of x.
    """
    count = mask.sum()
    kept = jnp.where(mask, x, 0.0).astype(jnp.float32)
    centred = jnp.where(mask, kept - kept.sum() / jnp.maximum(count, 1), 0.0)
    return centred / jnp.sqrt((centred**2).sum() / jnp.maximum(count - 1, 1) + VARIANCE_EPS)

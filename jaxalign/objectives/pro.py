"""Preference Ranking Optimization: a whole ranked list at once (arXiv 2306.17492)."""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families import likelihood
from jaxalign.objectives.families.pairs import ranked_right
from jaxalign.types import Array, Batch, Outputs, Terms, response_lengths

REQUIRES = ("ranked",)


def pro(policy: Outputs, reference: Outputs | None, batch: Batch, *, sft_weight: float = 0.05) -> Terms:
    """Every response against all worse ones by soft-max, with temperatures from the gaps of reward, plus the NLL of the best.

    With scores s (mean log-prob of a token), gaps g_ki = r_k - r_i and G_k = max_i g_ki over the worse i:
    sum_k (logsumexp(s_k G_k, {s_i g_ki}) - s_k G_k) + sft_weight (n - 1)^2 nll_best, n responses in the group.
    Responses of equal reward are not compared (the published code lets a later one weigh as a constant). Padding is never scored.

    Args:
      policy: log-probs of the batch.
      reference: not needed; where there is one, the drift from it is logged.
      batch: groups with at least two valid responses; their rewards say the order, so filler may stand anywhere.
      sft_weight: alpha, >= 0. The paper: 0.05.

    Raises:
      ValueError: sft_weight is negative, or the groups have one response only.
    """
    if not sft_weight >= 0:
        raise ValueError(f"objective 'pro' got sft_weight={sft_weight}; it must be >= 0, 0 being no supervised term.")
    if batch.valid.shape[1] < 2:
        raise ValueError("objective 'pro' got groups of one response; it ranks at least two: give data with several responses per prompt.")
    nll = likelihood.nll(policy, batch)
    score, reward = -nll / jnp.maximum(response_lengths(batch), 1.0), jax.lax.stop_gradient(batch.reward)
    ranking = _ranking(score, reward, batch.valid)
    best = jnp.where(batch.valid, reward, -jnp.inf).argmax(1)
    nll_of_best = jnp.where(jnp.arange(nll.shape[1]) == best[:, None], nll, 0.0).sum(1)
    count = batch.valid.sum(1)
    weight = (count > 1).astype(jnp.float32)
    loss = ranking + sft_weight * (count - 1.0) ** 2 * nll_of_best
    right = _share_in_order(score, reward, batch.valid)
    each = likelihood.terms(nll, policy, reference, batch, likelihood.rewards(batch)[1])
    return Terms(
        loss, weight, each.metrics | {"ranking": (ranking, weight), "nll/best": (nll_of_best, weight), "rewards/accuracies": right}
    )


def _ranking(score: Array, reward: Array, valid: Array) -> Array:
    """The sum over k of the list-wise losses, float32[N]; axes of [N, K, K] are group, k, i."""
    gap = reward[:, :, None] - reward[:, None, :]
    worse = (gap > 0) & valid[:, :, None] & valid[:, None, :]
    gap = jnp.where(worse, gap, 0.0)
    own = score * gap.max(2)
    others = jnp.where(worse, score[:, None, :] * gap, -jnp.inf)
    loss = jax.nn.logsumexp(jnp.concatenate([own[:, :, None], others], axis=2), axis=2) - own
    return jnp.where(worse.any(2), loss, 0.0).sum(1)


def _share_in_order(score: Array, reward: Array, valid: Array) -> tuple[Array, Array]:
    """Whether the better response has the higher score (a tie: 1/2), and weight 1 for pairs of unequal reward: float32[N, K, K] twice."""
    worse = (reward[:, :, None] > reward[:, None, :]) & valid[:, :, None] & valid[:, None, :]
    return ranked_right(score[:, :, None] - score[:, None, :]), worse.astype(jnp.float32)

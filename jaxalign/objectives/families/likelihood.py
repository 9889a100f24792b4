"""What the weighted-likelihood objectives share: the NLL of whole responses, clipped importance ratios, advantages, and the terms.

Such an objective is one line, a weight times the negative log-likelihood of a response. All weights (rewards, advantages, ratios,
probabilities) are constants: a gradient reaches the log-probs of the policy only.
"""

import math

import jax
import jax.numpy as jnp

from jaxalign.types import Array, Batch, Outputs, Terms, at_tokens, column, response_lengths, sum_responses

Metrics = dict[str, Array]  # [N, K] per response, or [R, T] per scored token


def nll(policy: Outputs, batch: Batch) -> Array:
    """-log pi of every response, summed over its tokens: float32[N, K]; 0 for filler."""
    return -sum_responses(policy.logps, batch)


def log_ratios(policy: Outputs, reference: Outputs) -> Array:
    """log pi - log pi_ref of every token, a constant: float32[R, T]; 0 where not scored."""
    return jax.lax.stop_gradient(policy.logps - reference.logps)


def clipped_ratio(name: str, log_ratio: Array, clip: float) -> tuple[Array, Metrics]:
    """exp(log_ratio) held in [1 - clip, 1 + clip], with its mean and the shares held at either end.

    It saturates at the ends; it does not stop the gradient there as PPO's minimum does. The logarithm is clipped, not the exponential, so
    no drift overflows. `name` is that of the objective in errors.

    Raises:
      ValueError: clip is negative or not finite.
    """
    if not 0 <= clip < math.inf:
        raise ValueError(
            f"objective {name!r} got clip={clip}; it is the half-width of the band around 1 that holds the ratio, 0 <= clip < inf "
            "(0.9 in the published runs; 0 leaves the ratio at 1)."
        )
    low, high = math.log1p(-clip) if clip < 1 else -math.inf, math.log1p(clip)
    ratio = jnp.exp(jnp.clip(log_ratio, low, high))
    return ratio, {"ratios/mean": ratio, "ratios/low": log_ratio < low, "ratios/high": log_ratio > high}


def positive_advantages(batch: Batch) -> tuple[Array, Metrics]:
    """max(A, 0) of every response, a constant float32[N, K], with the mean of A and the share of responses that have A <= 0.

    A is the column "advantage": the reward of the response less the value of its prompt under the reference policy.
    """
    advantage = jax.lax.stop_gradient(column(batch, "advantage"))
    return jnp.maximum(advantage, 0), {"advantages/mean": advantage, "advantages/not_positive": advantage <= 0}


def rewards(batch: Batch) -> tuple[Array, Metrics]:
    """The explicit reward of every response, a constant float32[N, K], with its mean."""
    reward = jax.lax.stop_gradient(batch.reward)
    return reward, {"feedback/mean": reward}


def terms(
    loss: Array, policy: Outputs, reference: Outputs | None, batch: Batch, metrics: Metrics, by_token: Metrics | None = None
) -> Terms:
    """Terms of a loss float32[N, K]: every valid response counts once, both sides of a pair too.

    Metrics beside those given: nll; drift, the log pi - log pi_ref of a response in nats (where there is a reference); lengths/responses.

    Args:
      metrics: float32 or bool [N, K].
      by_token: [R, T]; every scored token of a valid response counts once.
    """
    valid = batch.valid.astype(jnp.float32)
    metrics = {"nll": nll(policy, batch), "lengths/responses": response_lengths(batch)} | metrics
    if reference is not None:
        metrics["drift"] = sum_responses(log_ratios(policy, reference), batch)
    pairs = {name: (value.astype(jnp.float32), valid) for name, value in metrics.items()}
    scored = at_tokens(valid, batch)
    return Terms(loss, valid, pairs | {name: (value.astype(jnp.float32), scored) for name, value in (by_token or {}).items()})


def weighted_terms(weight: Array, policy: Outputs, reference: Outputs | None, batch: Batch, metrics: Metrics) -> Terms:
    """Terms of weight * nll, weight a constant float32[N, K].

    Also logs mean and mean square of the weights: mean^2 / mean_square is the share of the batch that is effectively used.
    """
    weight = jax.lax.stop_gradient(weight)
    metrics = metrics | {"weights/mean": weight, "weights/mean_square": weight**2}
    return terms(weight * nll(policy, batch), policy, reference, batch, metrics)

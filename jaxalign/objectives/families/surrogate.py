"""What the policy-gradient objectives share: ratios to the policy that drew the responses, PPO's clipped surrogate, reductions, metrics.

The responses of a batch were drawn by an earlier policy, whose log-probs are the column "rollout_logps". Advantages are constants.
"""

import math

import jax
import jax.numpy as jnp

from jaxalign.lm_head.entropy import token_entropy
from jaxalign.objectives.families.kl_estimates import ESTIMATES, LARGEST, k1, k3
from jaxalign.types import Array, Batch, Outputs, Terms, at_tokens, column, response_lengths, sum_responses, token_column, weights_of_means

LOGPS = "rollout_logps"  # column of tokens
REDUCTIONS = ("token_mean", "response_mean", "constant")
LEVELS = ("token", "sequence")
IN_LOSS = ("k3", "k2")  # estimates of the KL, the default first; the mean gradient of k1 in a loss is 0

Metrics = dict[str, Array]  # float32 or bool


def log_ratios(policy: Outputs, batch: Batch) -> Array:
    """log pi - log pi_rollout of every token, held within 20 nats: float32[R, T]; 0 where not scored."""
    return jnp.clip(policy.logps - token_column(batch, LOGPS), -LARGEST, LARGEST)


def of_responses(x: Array, batch: Batch, *, mean: bool) -> Array:
    """Sums, or means, of x float32[R, T] over the tokens of each response, held within 20 nats: float32[N, K]."""
    total = sum_responses(x, batch)
    return jnp.clip(total / jnp.maximum(response_lengths(batch), 1.0) if mean else total, -LARGEST, LARGEST)


def response_advantages(batch: Batch) -> Array:
    """The column "advantage", a constant float32[N, K]; 0 where not valid."""
    return jnp.where(batch.valid, jax.lax.stop_gradient(column(batch, "advantage")), 0.0)


def clipped(log_ratio: Array, advantage: Array, *, clip_low: float, clip_high: float, dual_clip: float = 0.0) -> tuple[Array, Metrics]:
    """(-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), metrics) of one shape, rho = exp(log_ratio).

    With a dual clip (arXiv 1912.09729) it is at most -dual_clip * A where A < 0; 0 is none. The metrics are the ratio's mean, the shares
    of which the gradient is cut at either end, and k3 of the rollout's policy to this one.
    """
    ratio = jnp.exp(log_ratio)
    plain, held = ratio * advantage, jnp.clip(ratio, 1 - clip_low, 1 + clip_high) * advantage
    loss, cut = -jnp.minimum(plain, held), held < plain
    below = cut & (advantage < 0)
    metrics = {
        "ratios/mean": ratio,
        "ratios/low": below,
        "ratios/high": cut & (advantage > 0),
        "ratios/kl": k3(-log_ratio, jnp.zeros_like(ratio)),
    }
    if dual_clip:
        most = -dual_clip * advantage
        metrics["ratios/dual"] = (advantage < 0) & (loss > most)
        loss = jnp.where(advantage < 0, jnp.minimum(loss, most), loss)
    return loss, metrics


def value_loss(values: Array, old: Array, returns: Array, *, value_clip: float) -> tuple[Array, Metrics]:
    """(half the larger of (V - G)^2 and (V_clipped - G)^2, metrics) of one shape; V_clipped stays within value_clip of old; 0: V itself.

    The metrics give the explained variance, 1 - values/error_square / (returns/square - returns/mean^2), and the share of clipped values.
    """
    plain = (values - returns) ** 2
    metrics = {"values/mean": values, "values/error_square": plain, "returns/mean": returns, "returns/square": returns**2}
    if not value_clip:
        return 0.5 * plain, metrics
    held = (old + jnp.clip(values - old, -value_clip, value_clip) - returns) ** 2
    return 0.5 * jnp.maximum(plain, held), metrics | {"values/clipped": held > plain}


def entropy(policy: Outputs, batch: Batch) -> Array:
    """The entropy of the policy's next-token distribution at every scored token, float32[R, T], with its gradient."""
    head = {"vocab_size": policy.vocab_size, "softcap": policy.softcap}
    return token_entropy(policy.hidden, policy.unembed, batch.slots >= 0, **head)


def kl_loss(policy: Outputs, reference: Outputs, estimate: str) -> Array:
    """The estimate of KL(policy || reference) at every token, float32[R, T], with its gradient."""
    return ESTIMATES[estimate](policy.logps, jax.lax.stop_gradient(reference.logps))


def check(
    name: str,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 0.0,
    beta: float = 0.0,
    kl: str = "k3",
    reduction: str = "token_mean",
    max_tokens: int = 0,
    level: str = "token",
    **weights: float,
) -> None:
    """Raises ValueError where an option of objective `name`, weights among them, is out of its range or has no effect."""
    if not (0 < clip_low <= 1 and 0 < clip_high < math.inf):
        raise ValueError(f"objective {name!r} got {clip_low=}, {clip_high=}; ratios stay in [1 - clip_low, 1 + clip_high], often 0.2 both.")
    if min(weights.values(), default=0.0) < 0:
        raise ValueError(f"objective {name!r} got {', '.join(f'{key}={value}' for key, value in weights.items())}; none is below 0.")
    if dual_clip and not 1 < dual_clip < math.inf:
        raise ValueError(f"objective {name!r} got {dual_clip=}; it is a ratio above 1, often 3, or 0 for none.")
    if not 0 <= beta < math.inf or kl not in IN_LOSS:
        raise ValueError(
            f"objective {name!r} got {beta=}, {kl=}; beta >= 0 weighs one of {', '.join(IN_LOSS)}: in a loss k1 pushes nowhere."
        )
    if not beta and kl != IN_LOSS[0]:
        raise ValueError(f"objective {name!r} got {kl=} with {beta=}, where the loss holds no KL; set beta above 0, or leave kl out.")
    if reduction not in REDUCTIONS or level not in LEVELS:
        raise ValueError(
            f"objective {name!r} got {reduction=}, ratio={level!r}; there are {', '.join(REDUCTIONS)} and {', '.join(LEVELS)}."
        )
    if (reduction == "constant") != (max_tokens > 0):
        raise ValueError(
            f"objective {name!r} got {reduction=}, {max_tokens=}: 'constant' divides by max_tokens, often data.rollout's, and no "
            "other reduction reads it."
        )


def terms(
    loss: Array,
    policy: Outputs,
    reference: Outputs | None,
    batch: Batch,
    metrics: Metrics,
    *,
    reduction: str = "token_mean",
    max_tokens: int = 0,
) -> Terms:
    """Terms of a loss float32[R, T] of tokens or [N, K] of responses, whose metrics have either shape.

    Metrics beside those given: lengths/responses; surprise, -log pi of a token, whose mean is the entropy while the policy is that of the
    rollout; and where there is a reference drift, the log pi - log pi_ref of a response.

    Args:
      reduction: of a loss of tokens. "token_mean": every token of the batch weighs alike (PPO, DAPO); "response_mean": every response, over
        its own tokens (GRPO); "constant": the sum over a response's tokens by max_tokens (Dr. GRPO). One of responses is their mean.
      max_tokens: of "constant".
    """
    valid = batch.valid.astype(jnp.float32)
    scored, weight = at_tokens(valid, batch), valid
    of_response = {"lengths/responses": response_lengths(batch)}
    if reference is not None:
        of_response["drift"] = sum_responses(jax.lax.stop_gradient(k1(policy.logps, reference.logps)), batch)
    every = {"surprise": -policy.logps} | metrics | of_response
    if loss.shape == batch.tokens.shape:
        if reduction == "constant":
            loss = sum_responses(loss, batch) / max_tokens
        else:
            weight = scored if reduction == "token_mean" else weights_of_means(batch)
    weights = {batch.tokens.shape: scored, batch.valid.shape: valid}
    return Terms(loss, weight, {name: (value.astype(jnp.float32), weights[value.shape]) for name, value in every.items()})

"""What every objective shares that judges responses one by one: log-ratios, four losses of the logit, the terms with their metrics.

A pointwise objective is a loss of the logit u = beta * rho + offset and a target, where rho = log pi - log pi_ref is the log-ratio of a
whole response (summed over its tokens) and sigmoid(u) its implicit score.
"""

from flax import struct
import jax
import jax.numpy as jnp

from jaxalign.hparams import check_beta
from jaxalign.types import Array, Batch, Outputs, Terms, mismatched, prompt_values, response_lengths, sum_responses

SATURATED = 0.01  # a score nearer than this to 0 or 1; its squared and absolute errors have almost no gradient


@struct.dataclass
class Responses:
    """Every response of a batch."""

    logps: Array  # float32[N, K]; summed log-probability under the policy
    log_ratios: Array  # float32[N, K]; rho; the reference is a constant in it
    lengths: Array  # float32[N, K]; scored tokens
    weight: Array  # float32[N, K]; 1 for a response that is trained on, 0 for filler and mismatched ones


def responses(policy: Outputs, reference: Outputs | None, batch: Batch) -> Responses:
    """The responses of a batch, those of pairs too. Without a reference its log-probs count as 0 (a uniform reference)."""
    logps = sum_responses(policy.logps, batch)
    constant = jnp.zeros_like(logps) if reference is None else sum_responses(jax.lax.stop_gradient(reference.logps), batch)
    return Responses(logps, logps - constant, response_lengths(batch), batch.valid.astype(jnp.float32))


def single_responses(policy: Outputs, reference: Outputs | None, batch: Batch) -> Responses:
    """The same with weight 0 for responses of pairs."""
    each = responses(policy, reference, batch)
    return each.replace(weight=each.weight * ~batch.paired[:, None])


def mismatched_log_ratios(policy: Outputs, reference: Outputs, batch: Batch) -> tuple[Array, Array]:
    """rho of the responses to other prompts, and weight 1 where a group that is trained on holds one: float32[N, K] twice.

    Their mean stands for KL(policy || reference). The policy is a constant in it.
    """
    constant = policy.replace(logps=jax.lax.stop_gradient(policy.logps))
    trained = batch.valid.any(1, keepdims=True)
    return responses(constant, reference, batch).log_ratios, (mismatched(batch) & trained).astype(jnp.float32)


def reward_statistics(each: Responses, *, beta: float) -> dict[str, tuple[Array, Array]]:
    """ "rewards", beta * rho of every response of weight 1, and "seen", 1 where there is any: both as an objective's `statistics`.

    The policy is a constant in them.
    """
    rewards = beta * jax.lax.stop_gradient(each.log_ratios)
    return {"rewards": (rewards, each.weight), "seen": (jnp.ones_like(each.weight), each.weight)}


def running_means(previous: dict[str, Array], current: dict[str, Array], decay: float) -> dict[str, Array]:
    """decay * previous + (1 - decay) * current of every statistic; a batch without responses adds nothing to either of the two above."""
    return {name: decay * previous[name] + (1 - decay) * value for name, value in current.items()}


def mean_reward(statistics: dict[str, Array]) -> Array:
    """The mean reward of the batches behind `reward_statistics`, float32[]; 0 before any. Free of the bias of a running mean from 0."""
    return statistics["rewards"] / jnp.where(statistics["seen"] > 0, statistics["seen"], 1.0)


def prompt_offset(policy: Outputs, *, squashed: bool) -> Array:
    """The value head's offset of each response, float32[N, K], with its gradient: logit(V), from -13.8 to 13.8, or V itself.

    Raises:
      ValueError: the model has no value head.
    """
    values = prompt_values(policy)
    if not squashed:
        return values
    value = jnp.clip(values, 1e-6, 1 - 1e-6)
    return jnp.log(value) - jnp.log1p(-value)


def l1(u: Array, target: Array) -> Array:
    """t sigmoid(-u) + (1 - t) sigmoid(u), which is |sigmoid(u) - t| for t of 0 or 1."""
    return target * jax.nn.sigmoid(-u) + (1 - target) * jax.nn.sigmoid(u)


def mse(u: Array, target: Array) -> Array:
    """(sigmoid(u) - t)^2; the gradient fades where the score is confidently wrong."""
    return (jax.nn.sigmoid(u) - target) ** 2


def bce(u: Array, target: Array) -> Array:
    """t softplus(-u) + (1 - t) softplus(u), the cross-entropy; its slope is sigmoid(u) - t."""
    return target * jax.nn.softplus(-u) + (1 - target) * jax.nn.softplus(u)


def raw(u: Array, target: Array) -> Array:
    """(u - t)^2, without a sigmoid; the target is any number."""
    return (u - target) ** 2


KERNELS = {"l1": l1, "mse": mse, "bce": bce, "raw": raw}


def side_metrics(each: Responses, target: Array, *, beta: float) -> dict[str, tuple[Array, Array]]:
    """Rewards beta * rho, log-probs and lengths of the chosen (target > 1/2) and the rejected responses, each over its own number.

    Raises:
      ValueError: beta is not above 0.
    """
    check_beta(beta)
    values = {"rewards": beta * each.log_ratios, "logps": each.logps, "lengths": each.lengths}
    sides = {"chosen": each.weight * (target > 0.5), "rejected": each.weight * (target <= 0.5)}
    return {f"{name}/{side}": (value, weight) for name, value in values.items() for side, weight in sides.items()}


def score_metrics(u: Array, target: Array, weight: Array) -> dict[str, tuple[Array, Array]]:
    """The implicit score s = sigmoid(u) of both sides, its squared error (Brier score), how many are within 0.01 of 0 or 1, mean target."""
    score = jax.nn.sigmoid(u)
    saturated = (score < SATURATED) | (score > 1 - SATURATED)
    return {
        "scores/chosen": (score, weight * (target > 0.5)),
        "scores/rejected": (score, weight * (target <= 0.5)),
        "scores/brier": ((score - target) ** 2, weight),
        "scores/saturated": (saturated.astype(jnp.float32), weight),
        "targets/mean": (target, weight),
    }


def response_terms(loss: Array, each: Responses, u: Array, target: Array, *, beta: float) -> Terms:
    """Terms of a loss float32[N, K] over the responses of weight 1, with the metrics of both functions above.

    Raises:
      ValueError: beta is not above 0.
    """
    return Terms(loss, each.weight, side_metrics(each, target, beta=beta) | score_metrics(u, target, each.weight))


def mixed_terms(of_pairs: Terms, of_singles: Terms, batch: Batch) -> Terms:
    """One float32[N, K] of a loss [N] over pairs, at response 0 of their groups, and a loss [N, K] over the responses of other groups.

    Metrics of the same name become one over both; loss/pairs and loss/scores tell the two losses apart.
    """
    paired = batch.paired[:, None]
    first = jnp.arange(batch.valid.shape[1]) == 0

    def both(pair, single):
        return jnp.where(paired, pair[0][:, None], single[0]), jnp.where(paired, pair[1][:, None] * first, single[1])

    losses = {"loss/pairs": (of_pairs.loss, of_pairs.weight), "loss/scores": (of_singles.loss, of_singles.weight)}
    shared = {name: both(value, of_singles.metrics[name]) for name, value in of_pairs.metrics.items() if name in of_singles.metrics}
    loss, weight = both(*losses.values())
    return Terms(loss, weight, of_pairs.metrics | of_singles.metrics | shared | losses)

"""What every pairwise objective shares: log-ratios of both sides, and the terms with their metrics.

A pairwise objective is one line: a loss of the margin h = rho_chosen - rho_rejected, where rho = log pi - log pi_ref is the log-ratio of a
whole response (summed over its tokens).
"""

from flax import struct
import jax
import jax.numpy as jnp

from jaxalign.hparams import check_beta
from jaxalign.types import Array, Batch, Outputs, Terms, response_lengths, sum_responses


@struct.dataclass
class Pairs:
    """Both sides of every group; [:, 0] is the chosen side, [:, 1] the rejected one."""

    logps: Array  # float32[N, 2]; summed log-probability under the policy
    log_ratios: Array  # float32[N, 2]; rho; the reference is a constant in it
    lengths: Array  # float32[N, 2]; scored tokens
    weight: Array  # float32[N]; 1 for a complete pair, 0 for filler and for groups judged one by one

    @property
    def margin(self) -> Array:
        """h, float32[N]: by how much more the policy raised the chosen response than the rejected one, in nats."""
        return self.log_ratios[:, 0] - self.log_ratios[:, 1]

    @property
    def nll(self) -> Array:
        """-log p of the chosen response per token, float32[N], in nats; 0 where it has no scored token."""
        return -self.logps[:, 0] / jnp.maximum(self.lengths[:, 0], 1.0)

    def per_token(self) -> "Pairs":
        """The pairs with every log-ratio divided by the response's number of scored tokens; `margin` is then that of the means."""
        return self.replace(log_ratios=self.log_ratios / jnp.maximum(self.lengths, 1.0))


def pairs(policy: Outputs, reference: Outputs | None, batch: Batch) -> Pairs:
    """The pairs of a batch. Without a reference its log-probs count as 0 (a uniform reference).

    Raises:
      ValueError: the groups have one response only.
    """
    if batch.valid.shape[1] < 2:
        raise ValueError("the groups of this batch have one response; a pairwise objective needs a chosen and a rejected one.")
    logps = sum_responses(policy.logps, batch)[:, :2]
    constant = jnp.zeros_like(logps) if reference is None else sum_responses(jax.lax.stop_gradient(reference.logps), batch)[:, :2]
    weight = (batch.paired & batch.valid[:, 0] & batch.valid[:, 1]).astype(jnp.float32)
    return Pairs(logps, logps - constant, response_lengths(batch)[:, :2], weight)


def ranked_right(margin: Array) -> Array:
    """Whether a margin is right, as float32 of its shape: 1 above 0, 0 below, 1/2 at 0, where neither side is ahead; NaN stays NaN.

    Every accuracy of this package counts so: it starts at 1/2, chance, where policy and reference are the same.
    """
    return ((1 + jnp.sign(margin)) / 2).astype(jnp.float32)


def pair_terms(loss: Array, pairs: Pairs, *, beta: float, metrics: dict[str, Array] | None = None) -> Terms:
    """Terms of a loss float32[N] over pairs, with the metrics of preference training.

    Rewards are beta * rho: of the summed log-probs, unless the objective hands in `pairs.per_token()`. Without a reference rho is the
    log-probability itself. rewards/accuracies is the share of pairs with a margin above 0, logps/accuracies the share whose chosen side the
    policy itself finds likelier; a tie counts half (`ranked_right`).

    Args:
      metrics: further ones of the objective, float32[N].

    Raises:
      ValueError: beta is not above 0.
    """
    check_beta(beta)
    rewards = beta * pairs.log_ratios
    values = {
        "rewards/accuracies": ranked_right(pairs.margin),
        "rewards/margins": beta * pairs.margin,
        "rewards/chosen": rewards[:, 0],
        "rewards/rejected": rewards[:, 1],
        "logps/chosen": pairs.logps[:, 0],
        "logps/rejected": pairs.logps[:, 1],
        "logps/accuracies": ranked_right(pairs.logps[:, 0] - pairs.logps[:, 1]),
        "lengths/chosen": pairs.lengths[:, 0],
        "lengths/rejected": pairs.lengths[:, 1],
    } | (metrics or {})
    return Terms(loss, pairs.weight, {name: (value, pairs.weight) for name, value in values.items()})

"""A reward model over a few declared features of a response, scores of judges, rules or models (arXiv 2402.15473)."""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families.pairs import ranked_right
from jaxalign.objectives.reward import reward
from jaxalign.types import Array, Batch, Outputs, Terms, response_features

REQUIRES = ("ranked", "reward_head", "reward_head_alone", "features", "no_logps")


def feature_reward(
    policy: Outputs,
    reference: Outputs | None,
    batch: Batch,
    *,
    margin: float = 0.0,
    margin_column: str = "",
    centering: float = 0.0,
    label_smoothing: float = 0.0,
) -> Terms:
    """The loss of `reward`, averaged over the members of the ensemble, each by its own rewards.

    Beside the metrics of `reward`, which are those of the combined reward, stand the accuracies that need no training: "plain_mean", of the
    mean of all features whose direction is known, and "features/NAME", of each feature alone. The best of the latter on the training rows
    is the baseline that a network should beat on the held-out ones. "members/spread" is the standard deviation of the members' rewards.

    Args:
      policy: rewards, and the features with the members' rewards; the decoder is not computed.
      reference: not read.
      batch: pairs, or lists of at least two responses, with a column for each feature.
      margin, margin_column, centering, label_smoothing: see `reward`.

    Raises:
      ValueError: an option out of its range, or no reward head on features.
    """
    options = {"margin": margin, "margin_column": margin_column, "centering": centering, "label_smoothing": label_smoothing}
    features = response_features(policy)

    def member(rewards: Array) -> Array:
        return reward(policy.replace(rewards=rewards), reference, batch, **options).loss

    terms = reward(policy, reference, batch, **options)
    better = terms.metrics["rewards/accuracies"][1]

    def accuracy(values: Array) -> tuple[Array, Array]:
        return ranked_right(values[:, :, None] - values[:, None]), better

    directions = jnp.array(features.directions, jnp.float32)
    signed = jnp.where(directions < 0, -features.values, features.values)
    metrics = {f"features/{name}": accuracy(signed[..., i]) for i, name in enumerate(features.names)}
    if any(features.directions):
        metrics["plain_mean"] = accuracy((signed * (directions != 0)).sum(-1))
    metrics["members/spread"] = features.members.std(-1), batch.valid.astype(jnp.float32)
    loss = jax.vmap(member, in_axes=-1, out_axes=-1)(features.members).mean(-1)
    return terms.replace(loss=loss, metrics=terms.metrics | metrics)

"""A reward model whose states show how near an answer is to a good one (contrastive goal-conditioned reward models, arXiv 2407.13887)."""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families import goals
from jaxalign.objectives.reward import reward
from jaxalign.types import Array, Batch, Outputs, Terms

REQUIRES = ("ranked", "reward_head", "no_logps")


def statistics(
    policy: Outputs,
    reference: Outputs | None,
    batch: Batch,
    *,
    samples: int,
    pairs: str,
    goal: str,
    reduction: str,
    source_percentile: float,
    goal_percentile: float,
    seed: int,
) -> dict[str, tuple[Array, Array]]:
    """With "log_of_batch_mean" the mean sigmoids whose logarithm is taken; the other reductions need none."""
    if reduction != goals.OVER_BATCH:
        return {}
    drawn = goals.draw(policy, batch, samples=samples, seed=seed, percentiles=(source_percentile, goal_percentile))
    return goals.statistics(*drawn.cosines(pairs, goal), weight=reward(policy, reference, batch).weight)


def goal_reward(
    policy: Outputs,
    reference: Outputs | None,
    batch: Batch,
    statistics: dict[str, Array],
    *,
    weight: float = 0.5,
    samples: int = 16,
    pairs: str = "all",
    goal: str = "single",
    reduction: str = "log_of_mean",
    source_percentile: float = 0.0,
    goal_percentile: float = 0.0,
    seed: int = 0,
) -> Terms:
    """The loss of `reward` + weight * `goals.contrast` for every prompt; ln 2 + weight * 2 ln 2 where neither tells answers apart.

    The contrast draws states of the best answer nearer to later ones of itself, and away from those of the worst, by their cosines.

    Args:
      policy: rewards, hidden states and the step; the gradient goes into both states of every cosine.
      reference: not read.
      batch: pairs, or lists of at least two responses, whose feedback gives the order.
      statistics: with reduction "log_of_batch_mean" the mean sigmoids of the whole batch, else nothing.
      weight: lambda, >= 0. The paper: 0.5.
      samples: S, states per answer and role, >= 1. The paper: 16.
      pairs: which of the S x S pairs of states count: "all", as published, "diagonal" or "causal"; see `goals.Drawn.cosines`.
      goal: "single", or "average": the mean of the S goals is the one goal, for which pairs is "all".
      reduction: see `goals.contrast`.
      source_percentile, goal_percentile: p in [0, 1); p > 0 draws from the first 1 - p of an answer only.
      seed: of the states that are drawn, beside the step and the answer alone.

    Raises:
      ValueError: an option out of its range, or no reward head.
    """
    percentiles = source_percentile, goal_percentile
    goals.check(weight=weight, samples=samples, pairs=pairs, goal=goal, reduction=reduction, percentiles=percentiles)
    drawn = goals.draw(policy, batch, samples=samples, seed=seed, percentiles=percentiles)
    positive, negative, kept = drawn.cosines(pairs, goal)
    contrast = goals.contrast(positive, negative, kept, reduction=reduction, statistics=statistics)
    terms = reward(policy, reference, batch)
    metrics = {
        "contrast": contrast,
        **{f"cosines/{name}": goals.mean(*x) for name, *x in (("positive", positive, kept[0]), ("negative", negative, kept[1]))},
        "states/norm": jnp.sqrt((drawn.source**2).sum(-1)).mean(-1),
    }
    metrics = {name: (jax.lax.stop_gradient(value), terms.weight) for name, value in metrics.items()}
    return terms.replace(loss=terms.loss + weight * contrast, metrics=terms.metrics | metrics)

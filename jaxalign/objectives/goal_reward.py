"""A reward model whose states show how near an answer is to a good one (contrastive goal-conditioned reward models, arXiv 2407.13887)."""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families import goals
from jaxalign.objectives.reward import reward
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("ranked", "reward_head", "no_logps")


def goal_reward(
    policy: Outputs,
    reference: Outputs | None,
    batch: Batch,
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

    The contrast draws states of the best answer nearer to later ones of itself, and away from those of the worst answer, by their
    cosines. Which states are drawn depends on seed, step and the answer alone. The mean over states is that of one pair of answers; the
    published code takes it over a microbatch (of one pair, as released).

    Args:
      policy: rewards, hidden states and the step; the gradient goes into both states of every cosine.
      reference: not read.
      batch: pairs, or lists of at least two responses, whose feedback gives the order.
      weight: lambda, >= 0. The paper: 0.5.
      samples: S, states per answer and role, >= 1. The paper: 16.
      pairs: which of the S x S pairs of states of the best answer count: "all", as published; "diagonal", one goal for each source, at or
        after it; "causal", all goals that are at or after the source. Those of the worst answer count all, or with "diagonal" one for each.
      goal: "single", or "average": the mean of the S goals is the one goal, for which pairs is "all".
      reduction: see `goals.contrast`.
      source_percentile, goal_percentile: p in [0, 1); p > 0 draws from the first 1 - p of an answer only.
      seed: of the states that are drawn.

    Raises:
      ValueError: an option out of its range, or no reward head.
    """
    _check(weight, samples, pairs, goal, reduction, (source_percentile, goal_percentile))
    drawn = goals.draw(policy, batch, samples=samples, seed=seed, percentiles=(source_percentile, goal_percentile))
    positive, negative, kept = drawn.cosines(pairs, goal)
    contrast = goals.contrast(positive, negative, kept, reduction=reduction)
    terms = reward(policy, reference, batch)
    metrics = {
        "contrast": contrast,
        "cosines/positive": goals.mean(positive, kept[0]),
        "cosines/negative": goals.mean(negative, kept[1]),
        "states/norm": jnp.sqrt((drawn.source**2).sum(-1)).mean(-1),
    }
    metrics = {name: (jax.lax.stop_gradient(value), terms.weight) for name, value in metrics.items()}
    return terms.replace(loss=terms.loss + weight * contrast, metrics=terms.metrics | metrics)


def _check(weight, samples, pairs, goal, reduction, percentiles):
    if not weight >= 0 or samples < 1 or not all(0 <= p < 1 for p in percentiles):
        raise ValueError(f"objective 'goal_reward' got {weight=}, {samples=}, percentiles {percentiles}; >= 0, >= 1, and in [0, 1).")
    for name, value, choices in (("pairs", pairs, goals.PAIRS), ("goal", goal, goals.GOALS), ("reduction", reduction, goals.REDUCTIONS)):
        if value not in choices:
            raise ValueError(f"objective 'goal_reward' got {name}={value!r}; there are {choices}.")
    if pairs != "all" and (goal == "average" or percentiles[0] < percentiles[1]):
        raise ValueError(
            f"objective 'goal_reward' got {pairs=} with {goal=}, percentiles {percentiles}: it needs goal='single' and sources that "
            "reach as far to the front as goals, source_percentile >= goal_percentile; or set pairs='all'."
        )

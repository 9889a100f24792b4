"""How well reward models order answers that they did not learn from: areas under the ROC curve and pairs in order, with intervals.

Answers are read fold by fold, each by a model of its own, so that rewards of different folds are not compared.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxalign.reports.estimates import estimate
from jaxalign.reports.intervals import Interval, bootstrap, paired_bootstrap
from jaxalign.scoring import votes

SHARES = (0.25, 0.5, 0.75, 1.0)  # of an answer, after which its reward is read
BOOTSTRAPS, SEED, LEVEL = 2000, 0, 0.95


class Reading(NamedTuple):
    """What a reward model makes of the answers of a fold: a number, or a row of them, for each of n answers."""

    prompts: np.ndarray  # int[n]; number of the prompt within the fold
    right: np.ndarray  # bool[n]
    rewards: np.ndarray  # float64[n, SHARES]; after each share of the answer
    cosines: np.ndarray  # float64[n]; with the goal, at the end
    votes: dict[str, float]  # {} where there is none


def summary(readings: Sequence[Reading]) -> dict[str, Any]:
    """ "accuracy" of two answers of a prompt, "auroc" of all answers at each share, each with its interval; by seed; and the votes."""
    order = in_order(readings)
    by_seed = [float(votes.auroc(one.rewards[:, -1], one.right)) for one in readings]
    cosine = [float(votes.auroc(one.cosines, one.right)) for one in readings]
    ballots = [one.votes for one in readings if one.votes]
    return {
        "answers": sum(len(one.right) for one in readings),
        "prompts compared": int((order[1] > 0).sum()),
        "accuracy": _estimated(estimate(*order).value, bootstrap(*order, seed=SEED)),
        "auroc": [_of_draws(_mean_areas(readings, share)) for share in range(len(SHARES))],
        "auroc by seed": by_seed,
        "cosine auroc": float(np.mean(cosine)),
        "votes": _together(ballots) if ballots else {},
    }


def difference(ours: Sequence[Reading], theirs: Sequence[Reading]) -> dict[str, Any]:
    """By how much the first is above the second, with paired intervals: both read the same prompts."""
    first, second = in_order(ours), in_order(theirs)
    change = estimate(*first).value - estimate(*second).value
    drawn = [_of_draws(_mean_areas(ours, share) - _mean_areas(theirs, share)) for share in range(len(SHARES))]
    return {"accuracy": _estimated(change, paired_bootstrap(second, first, seed=SEED)), "auroc": drawn}


def areas(reading: Reading, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The AUROC of scores float[n] where prompt p of the fold counts counts[b, p] times, float64[b]; a tie counts half."""
    right = reading.right
    above = np.sign(scores[right][:, None] - scores[~right][None]) / 2 + 0.5
    weights = [counts[:, reading.prompts[side]].astype(np.float64) for side in (right, ~right)]
    totals = weights[0].sum(1) * weights[1].sum(1)
    return np.einsum("br,br->b", weights[0], weights[1] @ above.T) / np.maximum(totals, 1)


def in_order(readings: Sequence[Reading]) -> tuple[np.ndarray, np.ndarray]:
    """(sums, weights) by prompt of all folds: two answers of a prompt of which the right one has the larger reward; a tie counts half."""
    sums, weights = [], []
    for reading in readings:
        for prompt in range(int(reading.prompts.max()) + 1):
            right, wrong = (reading.rewards[(reading.prompts == prompt) & (reading.right == ok), -1] for ok in (True, False))
            sums.append((np.sign(right[:, None] - wrong[None]) / 2 + 0.5).sum())
            weights.append(len(right) * len(wrong))
    return np.array(sums, float), np.array(weights, float)


def _mean_areas(readings: Sequence[Reading], share: int) -> np.ndarray:
    """The mean over folds of the AUROC of the reward after SHARES[share], float64[1 + BOOTSTRAPS]."""
    return np.mean([areas(one, one.rewards[:, share], counts) for one, counts in zip(readings, _drawn(readings), strict=True)], axis=0)


def _drawn(readings: Sequence[Reading]) -> list[np.ndarray]:
    """How often each prompt of each fold counts: once in the first row, and then as the bootstrap draws them."""
    draw, counts = np.random.default_rng(SEED), []
    for reading in readings:
        n = int(reading.prompts.max()) + 1
        counts.append(np.concatenate([np.ones((1, n), int), draw.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAPS)]))
    return counts


def _together(ballots: Sequence[dict[str, float]]) -> dict[str, float]:
    """The votes of all folds: a prompt counts the same in each."""
    prompts = [one["prompts"] for one in ballots]
    shares = {name: float(np.average([one[name] for one in ballots], weights=prompts)) for name in ballots[0] if name != "prompts"}
    return {"prompts": sum(prompts), **shares}


def _estimated(value: float, interval: Interval) -> dict[str, float]:
    return {"value": float(value), "low": float(interval.low), "high": float(interval.high)}


def _of_draws(values: np.ndarray) -> dict[str, float]:
    return _estimated(values[0], Interval(*np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])))

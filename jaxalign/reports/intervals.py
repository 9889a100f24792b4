"""Intervals of shares and means: Wilson's, and the bootstrap over prompts."""

from collections.abc import Callable
import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

CHUNK = 2**22  # numbers that one chunk of bootstrap draws holds


class Interval(NamedTuple):
    """Where the true value lies in about 95 of 100 cases, unless another level is asked for; NaN where nothing tells."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.3f} to {self.high:.3f}" if math.isfinite(self.low) and math.isfinite(self.high) else "-"


def wilson(share: float, n: float, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share (J. Am. Stat. Assoc. 22, 1927), which stays within 0 and 1 and is not empty at 0 of n.

    Where ties count half, the verdicts vary less than those of a coin, and the interval is on the safe side.

    Args:
      share: of n trials that succeeded, 0 to 1.
      n: independent trials. Samples of one prompt are not independent of each other: give the number of prompts.
      level: share of such intervals that hold the true share.
    """
    return score(share, n, quantile=NormalDist().inv_cdf(0.5 + level / 2))


def score(share: float, n: float, *, quantile: float) -> Interval:
    """Wilson's interval with another quantile than the normal one, such as Student's where the variance is an estimate."""
    if not n > 0 or math.isnan(share):
        return Interval(math.nan, math.nan)
    share, z2 = min(max(share, 0.0), 1.0), quantile**2
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * n)) / n) / (1 + z2 / n)
    return Interval(max(0.0, center - half), min(1.0, center + half))


def bootstrap(sums: np.ndarray, weights: np.ndarray, *, seed: int, draws: int = 10_000, level: float = 0.95) -> Interval:
    """Percentile bootstrap of `estimates.estimate`: prompts are drawn with replacement, all samples of a prompt together.

    Args:
      sums, weights: float[N], as in `estimate`; prompts without weight do not count, and of fewer than two others there is no interval.
      seed: of the draws.
      draws: how many times the prompts are drawn.
      level: share of such intervals that hold the true mean.
    """
    kept = np.asarray(weights) > 0
    columns = [np.asarray(x, np.float64)[kept] for x in (sums, weights)]
    return _percentiles(columns, lambda sums, weights: sums / weights, seed, draws, level)


def paired_bootstrap(
    before: tuple[np.ndarray, np.ndarray],
    after: tuple[np.ndarray, np.ndarray],
    *,
    seed: int,
    draws: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of `estimates.change`: a drawn prompt brings both its measurements, so what they share cancels.

    Args:
      before, after: (sums, weights), float[N] each, prompt by prompt in the same order. A prompt that one of them lacks does not count.
      seed: of the draws.
      draws: how many times the prompts are drawn.
      level: share of such intervals that hold the true difference.
    """
    kept = (np.asarray(before[1]) > 0) & (np.asarray(after[1]) > 0)
    columns = [np.asarray(x, np.float64)[kept] for x in (*before, *after)]
    return _percentiles(columns, lambda s, w, t, v: t / v - s / w, seed, draws, level)


def _percentiles(columns: list[np.ndarray], statistic: Callable, seed: int, draws: int, level: float) -> Interval:
    """The interval of a statistic of column sums, over draws of their entries."""
    n = len(columns[0])
    if n < 2:  # every draw of one prompt is the same
        return Interval(math.nan, math.nan)
    generator, values, stacked = np.random.default_rng(seed), [], np.stack(columns, axis=1)
    for start in range(0, draws, step := max(1, CHUNK // n)):
        times = generator.multinomial(n, np.full(n, 1 / n), size=min(step, draws - start))  # how often each prompt was drawn
        values.append(statistic(*(times @ stacked).T))
    low, high = np.quantile(np.concatenate(values), [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high))

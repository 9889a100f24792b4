"""How much better one configuration is than another, with an interval for other seeds and other prompts together.

The variance of a mean over seeds has two parts: that over prompts, which further seeds on the same prompts do not lessen, and that over
seeds, which can be estimated from two seeds on. The interval is Student's, with the degrees of freedom of Welch and Satterthwaite
(F. E. Satterthwaite, Biometrics Bulletin 2, 1946).
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

from jaxalign.reports.estimates import Estimate

LEVEL = 0.95


class Difference(NamedTuple):
    """A mean, or a difference of two, between the ends of its interval; NaN ends where there are too few prompts for one."""

    value: float
    low: float
    high: float
    seeds: int  # of the side that has fewer
    prompts: int  # likewise

    @property
    def sign(self) -> int:
        """1 or -1 where the interval is on that side of 0; 0 where it cannot be told."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def mean(ends: Sequence[Estimate], *, level: float = LEVEL) -> Difference:
    """The mean over seeds with its interval.

    Args:
      ends: the metric of each seed, at least one, all on the same prompts.
      level: share of such intervals that hold the true mean.
    """
    return _interval(_value(ends), [_over_prompts(ends), *_over_seeds(ends)], [ends], level)


def between(first: Sequence[Estimate], second: Sequence[Estimate], paired: Estimate | None = None, *, level: float = LEVEL) -> Difference:
    """The mean of the first side less that of the second, with its interval.

    Args:
      first, second: the metric of each seed of either side, at least one each.
      paired: the same difference measured prompt by prompt (`estimates.change`): what the sides share on a prompt is then not in the error.
        Without it the prompts of the two sides count as different ones, which is on the safe side.
      level: share of such intervals that hold the true difference.
    """
    over_prompts = [_over_prompts(first), _over_prompts(second)] if paired is None else [_over_prompts([paired])]
    value = _value(first) - _value(second)
    return _interval(value, [*over_prompts, *_over_seeds(first), *_over_seeds(second)], [first, second], level)


def simultaneous(comparisons: int) -> float:
    """The level of each of so many intervals that makes all of them hold together in LEVEL of cases (Bonferroni)."""
    return 1 - (1 - LEVEL) / max(comparisons, 1)


def _value(ends):
    return sum(end.value for end in ends) / len(ends)


def _over_prompts(ends):
    """(variance, degrees of freedom) over prompts, of the mean over seeds on the same prompts."""
    return sum(end.se**2 for end in ends) / len(ends), min(end.n for end in ends) - 1


def _over_seeds(ends):
    """The same over seeds; nothing for one seed."""
    n, middle = len(ends), _value(ends)
    return [(sum((end.value - middle) ** 2 for end in ends) / (n - 1) / n, n - 1)] if n > 1 else []


def _interval(value, parts, sides, level):
    from scipy.special import stdtrit  # jax brings scipy

    seeds, prompts = min(map(len, sides)), min(end.n for ends in sides for end in ends)
    variance = sum(part for part, _ in parts)
    if not math.isfinite(variance):
        return Difference(value, math.nan, math.nan, seeds, prompts)
    spread = sum(part**2 / max(df, 1) for part, df in parts)
    freedom = variance**2 / spread if spread else 1.0
    half = float(stdtrit(freedom, 0.5 + level / 2)) * math.sqrt(variance)
    return Difference(value, value - half, value + half, seeds, prompts)

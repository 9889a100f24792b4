"""How much better one configuration is than another, with an interval for other seeds and other prompts together.

The variance of a mean over seeds has two parts: that over prompts, which further seeds on the same prompts do not lessen, and that over
seeds, which can be estimated from two seeds on. The interval is Student's, with the degrees of freedom of Welch and Satterthwaite
(F. E. Satterthwaite, Biometrics Bulletin 2, 1946). That of a share is Wilson's with as many trials as have this variance, and that of a
difference of shares is made of the two by R. G. Newcombe's rule (Statistics in Medicine 17, 1998, method 10): both stay within what is
possible. Prompts that do not differ at all tell nothing of their spread: it is taken to be that of prompts of which one is the opposite,
so that fewer than six decide nothing, as in a sign test.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

from jaxalign.reports.estimates import Estimate
from jaxalign.reports.intervals import score

NO_SPREAD = 1e-9  # an error below so much of a value is rounding
LEVEL = 0.95


class Difference(NamedTuple):
    """A mean, or a difference of two, between the ends of its interval; NaN ends where there are too few prompts for one."""

    value: float
    low: float
    high: float
    seeds: int  # of the side that has fewer
    prompts: int  # likewise; of one that is measured prompt by prompt, those that both sides have
    paired: bool = False  # whether it is

    @property
    def sign(self) -> int:
        """1 or -1 where the interval is on that side of 0; 0 where it cannot be told."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def mean(ends: Sequence[Estimate], *, share: bool = False, level: float = LEVEL) -> Difference:
    """The mean over seeds with its interval.

    Args:
      ends: the metric of each seed, at least one, all on the same prompts.
      share: whether the metric is one of prompts, 0 to 1.
      level: share of such intervals that hold the true mean.
    """
    value = _value(ends)
    variance, freedom = _total([_over_prompts(ends, 0 if share else value), *_over_seeds(ends)])
    if not math.isfinite(variance) or not share:
        return _student(value, variance, freedom, [ends], level)
    trials = value * (1 - value) / variance if variance and 0 < value < 1 else min(end.n for end in ends)
    return Difference(value, *score(value, trials, quantile=_quantile(freedom, level)), *_counts([ends]))


def between(
    first: Sequence[Estimate],
    second: Sequence[Estimate],
    paired: Estimate | None = None,
    *,
    share: bool = False,
    level: float = LEVEL,
) -> Difference:
    """The mean of the first side less that of the second, with its interval.

    Args:
      first, second: the metric of each seed of either side, at least one each.
      paired: the same difference measured prompt by prompt (`estimates.change`), on the prompts that both sides have; it is the value then,
        and what the sides share on a prompt is not in its error. Without it the prompts of the two sides count as different ones, which is
        on the safe side.
      share: whether the metric is one of prompts, 0 to 1.
      level: share of such intervals that hold the true difference.
    """
    value, sides = _value(first) - _value(second) if paired is None else paired.value, [first, second]
    if share and paired is None:
        one, other = (mean(side, share=True, level=level) for side in sides)
        below = math.hypot(one.value - one.low, other.high - other.value)
        above = math.hypot(one.high - one.value, other.value - other.low)
        return Difference(value, value - below, value + above, *_counts(sides))
    over_prompts = [_over_prompts(side, value) for side in (sides if paired is None else [[paired]])]
    variance, freedom = _total([*over_prompts, *_over_seeds(first), *_over_seeds(second)])
    found = _student(value, variance, freedom, sides, level)
    return found if paired is None else found._replace(prompts=min(found.prompts, paired.n), paired=True)


def simultaneous(comparisons: int) -> float:
    """The level of each of so many intervals that makes all of them hold together in LEVEL of cases (Bonferroni)."""
    return 1 - (1 - LEVEL) / max(comparisons, 1)


def _value(ends):
    return sum(end.value for end in ends) / len(ends)


def _over_prompts(ends, opposite):
    """(variance, degrees of freedom) over prompts, of the mean over seeds on the same prompts.

    `opposite` is half the distance from the value to its opposite, which one of n prompts without any spread is taken to have.
    """
    errors = [2 * opposite / end.n if end.se <= NO_SPREAD * abs(end.value) else end.se for end in ends]
    return sum(error * error for error in errors) / len(ends), min(end.n for end in ends) - 1


def _over_seeds(ends):
    """The same over seeds; nothing for one seed."""
    n, middle = len(ends), _value(ends)
    return [(sum((end.value - middle) ** 2 for end in ends) / (n - 1) / n, n - 1)] if n > 1 else []


def _total(parts):
    """(variance, degrees of freedom) of a sum of independent parts, that over prompts first."""
    variance, spread = sum(part for part, _ in parts), sum(part * part / max(df, 1) for part, df in parts)
    return variance, variance * variance / spread if spread else max(parts[0][1], 1)


def _student(value, variance, freedom, sides, level):
    half = _quantile(freedom, level) * math.sqrt(variance) if math.isfinite(variance) else math.nan
    return Difference(value, value - half, value + half, *_counts(sides))


def _quantile(freedom, level):
    from scipy.special import stdtrit  # jax brings scipy

    return float(stdtrit(freedom, 0.5 + level / 2))


def _counts(sides):
    """(seeds, prompts) of the side that has fewer."""
    return min(map(len, sides)), min(end.n for ends in sides for end in ends)

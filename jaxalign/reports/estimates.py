"""A number with its standard error and with what it is measured on: what every held-out metric is."""

import math
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A weighted mean over prompts. Two standard errors either way hold the mean of all such prompts in about 95 of 100 cases."""

    value: float  # NaN where nothing was measured
    se: float  # standard error; NaN with fewer than two prompts
    n: int  # prompts that the metric was measured on: pairs, where each prompt has one

    def __str__(self) -> str:
        """Value, standard error with two digits, and the value as precise as that: "0.612 ± 0.033"; "-" where nothing was measured."""
        if not math.isfinite(self.value):
            return "-"
        if not math.isfinite(self.se) or self.se <= 0:
            return f"{self.value:.4g}"
        digits = min(max(1 - math.floor(math.log10(self.se)), 0), 8)
        return f"{self.value:,.{digits}f} ± {self.se:,.{digits}f}"

    def beside(self, n: int) -> str:
        """The text of a change whose ends are measured on n prompts, with its own number of prompts where that is another."""
        return str(self) if self.n in (0, n) else f"{self} ({self.n:,} prompts)"

    def as_dict(self) -> dict[str, float | int | None]:
        """Value, error and count for JSON; None where they are not finite."""
        return {name: (one if math.isfinite(one) else None) for name, one in self._asdict().items()}


MISSING = Estimate(math.nan, math.nan, 0)


def estimate(sums: np.ndarray, weights: np.ndarray) -> Estimate:
    """The mean of the values behind `sums` over all prompts, and its standard error, in float64.

    Prompts are independent of each other, the responses and tokens of one are not: the error is that of a ratio of two sums over prompts
    (linearised, with n - 1), which for one value per prompt of weight 1 is std(ddof=1) / sqrt(n).

    Args:
      sums: float[N]; value * weight, summed over each prompt.
      weights: float[N]; weight, summed over each prompt; prompts without any do not count.
    """
    value, shares = _shares(sums, weights)
    return Estimate(value, _error(shares), len(shares))


def change(before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]) -> Estimate:
    """The mean after less the mean before on the same prompts; what is common to both measurements of a prompt is not in its error.

    Args:
      before, after: (sums, weights) as in `estimate`, prompt by prompt in the same order. Of prompts that one side lacks, which a judge may
        have left without a score, neither side counts.
    """
    both = (np.asarray(before[1]) > 0) & (np.asarray(after[1]) > 0)
    (first, old), (last, new) = (_shares(*(np.asarray(x)[both] for x in side)) for side in (before, after))
    return Estimate(last - first, _error(new - old), len(new))


def _shares(sums, weights):
    """(mean, what each prompt that has weight adds to its error, float64[n])."""
    sums, weights = (np.asarray(x, np.float64)[np.asarray(weights) > 0] for x in (sums, weights))
    if not len(weights):
        return math.nan, weights
    value = sums.sum() / weights.sum()
    with np.errstate(invalid="ignore"):  # of values that are not finite
        return float(value), (sums - value * weights) / weights.sum()


def _error(shares):
    n = len(shares)
    return math.sqrt(n / (n - 1) * float((shares**2).sum())) if n > 1 else math.nan

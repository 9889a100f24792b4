"""Teacher hacking: the student comes nearer to the teacher while it moves away from what the teacher imitates (arXiv 2502.02671).

Proxy is the KL of whole texts from teacher to student, golden that from the oracle to the student, both on fresh prompts; see
`sequence_kl`. The training loss shows neither.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Curve:
    """Proxy and golden over the steps of a run, at steps above 0 in order."""

    steps: Sequence[float]
    proxy: Sequence[float]
    golden: Sequence[float] = ()  # empty where there is no oracle

    def flags(self, *, tolerance: float = 0.02, window: int = 1) -> np.ndarray:
        """Where the run is hacking its teacher, with the oracle: bool[n].

        Proxy is below what it was where golden was least, and golden is above its least by more than this share. Both are smoothed first.

        Args:
          tolerance: as a share of the least golden.
          window: odd number of points that a mean goes over, fewer at the ends.
        """
        proxy, golden = smoothed(self.proxy, window), smoothed(self.golden, window)
        best = int(golden.argmin())
        return (proxy < proxy[best]) & (golden > (1 + tolerance) * golden[best])

    def rise(self) -> float:
        """By which share golden ends above its least."""
        return float(self.golden[-1] / min(self.golden) - 1)

    def slope(self, first: float, last: float) -> float:
        """Least-squares slope of log proxy over log step, between these steps; NaN with less than two points there."""
        return self._line(first, last)[0]

    def deviation(self, first: float, last: float) -> np.ndarray:
        """log proxy - (a + b log step) everywhere, with a and b fitted between these steps: float64[n].

        Proxy follows a power law of the steps while data is fresh. Where it leaves the law of its early steps upwards, data is used up:
        the sign of hacking that needs no oracle.
        """
        b, a = self._line(first, last)
        return np.log(self.proxy) - (a + b * np.log(self.steps))

    def slope_ratio(self, early: tuple[float, float], late: tuple[float, float]) -> float:
        """The late slope as a share of the early one: 1 for a power law, near 0 where the proxy rests, below where it rises."""
        return self.slope(*late) / self.slope(*early)

    def _line(self, first, last):
        steps = np.asarray(self.steps, np.float64)
        inside = (steps >= first) & (steps <= last)
        if inside.sum() < 2:
            return np.nan, np.nan
        return np.polyfit(np.log(steps[inside]), np.log(np.asarray(self.proxy, np.float64)[inside]), 1)


def smoothed(values: Sequence[float], window: int) -> np.ndarray:
    """Means over an odd number of points around each, over those that are there at the ends: float64[n].

    Raises:
      ValueError: an even number, or one below 1.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window={window} has no middle; choose an odd number of points, 1 to leave them as they are.")
    values, half = np.asarray(values, np.float64), window // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])

"""KL divergence of a model from a speaker over whole texts, on the speaker's own samples, which are drawn once and kept.

The same samples at every measurement (common random numbers) take most of the noise out of differences between steps, and the speaker's
whole distributions are kept as a table, so that only the model runs again. For a small vocabulary; `divergence` needs no table.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class SequenceEstimate(NamedTuple):
    """KL(speaker || model) in nats per text."""

    value: float
    standard_error: float  # over prompts
    by_place: np.ndarray  # float64[T]; the mean KL of token t, 0 where no sample is so long; they add up to `value`


class SequenceKL:
    """KL(speaker || model) of whole texts: E_x E_{y ~ speaker} sum_t KL(speaker(. | x, y_<t) || model(. | x, y_<t)).

    This is the chain rule, exact but for the draw of y (arXiv 2504.10637: the Rao-Blackwellised estimator). Token KLs on prefixes that
    somebody else wrote are another quantity.

    Args:
      log_p: float[n, K, T, V]; log-probs of the speaker along K of its own samples for each of n prompts, drawn at temperature 1.
      scored: bool[n, K, T]; the tokens of each sample, its end included.
      log_q: gives float[n, K, T, V] of the model of these parameters along the same samples.
    """

    def __init__(self, log_p: np.ndarray, scored: np.ndarray, log_q: Callable[[Any], np.ndarray]):
        self._log_p, self._scored, self._log_q = np.asarray(log_p, np.float64), scored, log_q
        self._p = np.exp(self._log_p)

    def measure(self, params: Any) -> SequenceEstimate:
        """The estimate for a model; the standard error is 0 where there is one prompt."""
        gap = np.where(self._p > 0, self._p * (self._log_p - np.asarray(self._log_q(params), np.float64)), 0.0).sum(-1)
        by_token = np.where(self._scored, gap, 0.0)
        by_prompt = by_token.sum(-1).mean(-1)
        error = by_prompt.std(ddof=1) / len(by_prompt) ** 0.5 if len(by_prompt) > 1 else 0.0
        return SequenceEstimate(float(by_prompt.mean()), float(error), by_token.mean((0, 1)))

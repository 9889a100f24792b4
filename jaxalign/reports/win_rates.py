"""Win rates: verdicts of pairs of answers to the same prompts, raw and at equal length.

The length-controlled rate follows Dubois et al., "Length-Controlled AlpacaEval" (arXiv 2404.04475, equation 2): a logistic regression of
the verdict on the difference in length, read where the lengths are equal. What that paper adds needs many models judged on its own
prompts, and is left out: a term for the difficulty of a prompt, and answers made longer on purpose that anchor the slope. So where one
side is longer on nearly all prompts, the rate is an extrapolation, and differs from that paper's.
"""

import math

import numpy as np

from jaxalign.reports.estimates import MISSING, Estimate, estimate

SLOPE_SD = 2.5  # of the normal prior on the slope, weak on the scale of tanh; it keeps the slope finite where the longer answer always wins
TOLERANCE, STEPS = 1e-10, 100  # of Newton's method


def verdicts(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 where the first score is higher, 0 where the second is, 0.5 where they are equal, NaN where one is missing: float64[n].

    Args:
      first, second: scores of two answers to the same prompts, float[n]; NaN where there is none.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return np.where(np.isnan(first) | np.isnan(second), np.nan, np.where(first == second, 0.5, first > second))


def by_prompt(values: np.ndarray, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sums, weights) of values per distinct prompt, in the order of their numbers, as `estimate` and `bootstrap` take them: float64[N].

    Args:
      values: float[n]; NaN values weigh nothing.
      prompts: int[n], the number of each value's prompt.
    """
    values = np.asarray(values, np.float64)
    _, at = np.unique(np.asarray(prompts), return_inverse=True)
    there = ~np.isnan(values)
    return np.bincount(at, np.where(there, values, 0.0)), np.bincount(at, there.astype(np.float64))


def win_rate(verdict: np.ndarray, prompts: np.ndarray) -> Estimate:
    """The mean verdict over the samples that have one, a tie counting half, with the standard error over prompts.

    Args:
      verdict: float[n]: 1, 0.5, 0 or NaN.
      prompts: int[n], the number of each sample's prompt.
    """
    return estimate(*by_prompt(verdict, prompts))


def length_controlled(verdict: np.ndarray, lengths: np.ndarray, against: np.ndarray, prompts: np.ndarray) -> Estimate:
    """The win rate at equal length: sigmoid(a) of logit P(win) = a + b tanh(d / sd(d)), d being the difference in length.

    It equals `win_rate`, value and error, where all lengths are equal or all verdicts are, and becomes 1 minus itself where the two sides
    change places. b has a normal prior of standard deviation SLOPE_SD. The error is the sandwich's over prompts, by the delta method.

    Args:
      verdict: float[n]: 1, 0.5, 0 or NaN, which does not count.
      lengths, against: float[n], the lengths of the two answers in any one unit.
      prompts: int[n], the number of each sample's prompt.
    """
    there = ~np.isnan(np.asarray(verdict, np.float64))
    won, prompts = np.asarray(verdict, np.float64)[there], np.asarray(prompts)[there]
    if not len(won):
        return MISSING
    if won.mean() in (0.0, 1.0):
        return win_rate(won, prompts)
    difference = (np.asarray(lengths, np.float64) - np.asarray(against, np.float64))[there]
    spread = difference.std()
    inputs = np.stack([np.ones(len(won)), np.tanh(difference / spread) if spread else np.zeros(len(won))], axis=1)
    at_equal, residual, inverse = _fit(inputs, won)
    rate = 1 / (1 + math.exp(-at_equal))
    scores = inputs * residual[:, None]
    _, at = np.unique(prompts, return_inverse=True)
    influence = np.stack([np.bincount(at, column) for column in scores.T], axis=1) @ inverse[0] * rate * (1 - rate)
    n = len(influence)
    return Estimate(rate, math.sqrt(n / (n - 1) * float((influence**2).sum())) if n > 1 else math.nan, n)


def _fit(inputs, won):
    """(intercept, residuals [n], inverse curvature [2, 2]) at the maximum of the penalised likelihood, by Newton's method with halving."""
    penalty = np.array([0.0, SLOPE_SD**-2])

    def loss(weights):
        logits = inputs @ weights
        return float((np.logaddexp(0, logits) - won * logits).sum() + 0.5 * (penalty * weights**2).sum())

    weights = np.zeros(2)
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        curvature = inputs.T @ (inputs * (chance * (1 - chance))[:, None]) + np.diag(penalty)
        move = np.linalg.solve(curvature, inputs.T @ (won - chance) - penalty * weights)
        while np.abs(move).max() > TOLERANCE and loss(weights + move) > loss(weights):
            move = move / 2
        weights = weights + move
        if np.abs(move).max() <= TOLERANCE:
            break
    chance = 1 / (1 + np.exp(-inputs @ weights))
    curvature = inputs.T @ (inputs * (chance * (1 - chance))[:, None]) + np.diag(penalty)
    return weights[0], won - chance, np.linalg.inv(curvature)

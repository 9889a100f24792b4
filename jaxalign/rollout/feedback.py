"""What a batch says of K samples per prompt, made of their rewards: scores, pairs, labels or advantages.

A kind of feedback is a function `(rewards, *, options) -> Judged`. Rewards are float32[P, K], NaN where a sample has none; its keyword
arguments are options of data.rollout, like those of the function that computes its columns on the devices, if it has one.
"""

from collections.abc import Callable, Mapping
import dataclasses
from functools import partial
from typing import Any

import numpy as np

from jaxalign.hparams import hparams_of
from jaxalign.rollout import computed

TRANSFORMS = ("sigmoid", "linear", "none", "raw")


@dataclasses.dataclass(frozen=True)
class Judged:
    """M of the K samples of every prompt as the responses of its group."""

    chosen: np.ndarray  # int[P, M]; numbers of the samples
    reward: np.ndarray  # float32[P, M]; `Batch.reward`
    valid: np.ndarray  # bool[P, M]; False: the sample is not trained


@dataclasses.dataclass(frozen=True)
class Feedback:
    """A kind of feedback and what is true of it."""

    judge: Callable[..., Judged]
    check: Callable[..., None] = lambda **_: None  # raises ValueError where an option is wrong
    lays: int | None = None  # samples of a prompt that are laid; None: all
    paired: bool = False  # response 0 of a group is preferred to response 1
    alike: bool = False  # every response that is trained has the reward 1
    rewarded: bool = True  # whether it needs rewards
    least: int = 1  # samples per prompt
    compute: Callable[..., dict] | None = None  # its columns on the devices, see `computed`
    columns: tuple[str, ...] = ()  # of responses, which that gives
    token_columns: tuple[str, ...] = ()  # of tokens
    finish: Callable[..., dict] | None = None  # its columns that need the whole window, see `computed`

    @property
    def options(self) -> dict[str, Any]:
        """Its options and their defaults."""
        return {name: default for one in self._parts if one for name, default in hparams_of(one).items()}

    def bound(self, options: Mapping[str, Any]) -> tuple[Callable | None, ...]:
        """`judge`, `compute` and `finish` with their options."""
        return tuple(partial(one, **{name: options[name] for name in hparams_of(one)}) if one else None for one in self._parts)

    @property
    def _parts(self):
        return self.judge, self.compute, self.finish

    def responses(self, samples: int) -> int:
        """M, the responses of a group."""
        return samples if self.lays is None else self.lays


def samples(rewards: np.ndarray) -> Judged:
    """Every sample as a good answer, of reward 1, however it is rewarded: the texts of a teacher."""
    return _all(rewards, np.isfinite(rewards), np.ones(rewards.shape))


def scores(rewards: np.ndarray, *, score_transform: str = "sigmoid", score_range: tuple[float, float] | None = None) -> Judged:
    """Every sample with a score, as of UNA online (arXiv 2408.15339 v2, equation 9).

    Args:
      score_transform: how a reward becomes a score in [0, 1]: "sigmoid", as the paper does; "linear", from score_range; "none", for rewards
        that are scores already; "raw", any number, for an objective that fits it (una with loss="raw").
      score_range: (worst, best) rewards of "linear"; what lies beyond counts as the nearer of them.

    Raises:
      ValueError: a reward beyond [0, 1] with "none".
    """
    known = np.nan_to_num(rewards.astype(np.float64))
    if score_transform == "sigmoid":
        known = 0.5 * (1.0 + np.tanh(0.5 * known))
    elif score_range is not None:
        known = np.clip((known - score_range[0]) / (score_range[1] - score_range[0]), 0.0, 1.0)
    elif score_transform == "none" and ((known < 0) | (known > 1)).any():
        raise ValueError(
            f"data.rollout.score_transform='none' takes scores from 0 to 1, and there are rewards from {known.min():g} to {known.max():g}, "
            "less the penalty for a missing end; set 'sigmoid', or 'linear' with score_range=(worst, best)."
        )
    return _all(rewards, np.isfinite(rewards), known)


def check_scores(*, score_transform: str, score_range: tuple[float, float] | None) -> None:
    """Raises ValueError for an unknown transform, or a range that does not go with it."""
    if score_transform not in TRANSFORMS:
        raise ValueError(f"score_transform={score_transform!r} is not one of {', '.join(TRANSFORMS)}.")
    if (score_range is not None) != (score_transform == "linear"):
        way = "give (worst, best)" if score_range is None else "leave it out"
        raise ValueError(f"score_range={score_range!r} with score_transform={score_transform!r}: {way}.")
    if score_range is not None and not (_are_numbers(score_range) and len(score_range) == 2 and score_range[0] < score_range[1]):
        raise ValueError(f"score_range={score_range!r} must be (worst, best), two numbers in this order.")


def check_labels(*, threshold: float | None) -> None:
    """Raises ValueError where the threshold is no number."""
    if threshold is not None and not _are_numbers((threshold,)):
        raise ValueError(f"threshold={threshold!r} is no number; give the reward above which a sample is good, or leave it out.")


def _are_numbers(values) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def best(rewards: np.ndarray) -> Judged:
    """The best sample of every prompt as a good answer, the first of equal ones: likelihood on best of n (RAFT, arXiv 2304.06767)."""
    known = np.isfinite(rewards)
    chosen = np.where(known, rewards, -np.inf).argmax(1)[:, None]
    return Judged(chosen, np.ones(chosen.shape, np.float32), known.any(1, keepdims=True))


def pairs(rewards: np.ndarray) -> Judged:
    """The best of the samples against the worst; not trained where their rewards are equal, or fewer than two samples have one."""
    known = np.isfinite(rewards)
    best = np.where(known, rewards, -np.inf).argmax(1)
    worst = np.where(known, rewards, np.inf).argmin(1)
    chosen = np.stack([best, worst], 1)
    ordered = np.take_along_axis(rewards, chosen, 1)
    valid = (ordered[:, 0] > ordered[:, 1])[:, None].repeat(2, 1)
    return Judged(chosen, np.tile(np.array([1.0, 0.0], np.float32), (len(rewards), 1)), valid)


def labels(rewards: np.ndarray, *, threshold: float | None = None) -> Judged:
    """Every sample as good or bad, for KTO.

    Args:
      threshold: a reward above it is good; None: a reward above the mean of the prompt's samples, of which none is trained where all are
        equal.
    """
    known = np.isfinite(rewards)
    if threshold is None:
        count = np.maximum(known.sum(1, keepdims=True), 1)
        threshold, known = np.where(known, rewards, 0.0).sum(1, keepdims=True) / count, known & ~tied(rewards)[:, None]
    return _all(rewards, known, np.nan_to_num(rewards) > threshold)


def rewards_alone(rewards: np.ndarray) -> Judged:
    """Every sample with a reward, as the reward gave it."""
    return _all(rewards, np.isfinite(rewards), np.nan_to_num(rewards))


def without_end(rewards: np.ndarray, stopped: np.ndarray, *, penalty: float = 0.0, most: float | None = None) -> np.ndarray:
    """Rewards float32[P, K] where samples that were not stopped lose `penalty` and earn `most` at most; None: no such limit."""
    lowered = rewards - penalty if most is None else np.minimum(rewards - penalty, most)
    return np.where(stopped, rewards, lowered).astype(np.float32)


def tied(rewards: np.ndarray) -> np.ndarray:
    """Which prompts have several samples with a reward, all of them equal: bool[P]."""
    known = np.isfinite(rewards)
    highest, lowest = (np.where(known, rewards, sign * np.inf) for sign in (-1, 1))
    return (known.sum(1) > 1) & (highest.max(1) == lowest.min(1))


def _all(rewards, valid, reward):
    numbers = np.broadcast_to(np.arange(rewards.shape[1]), rewards.shape)
    return Judged(numbers, np.asarray(reward, np.float32), valid)


FEEDBACK = {
    "samples": Feedback(samples, alike=True, rewarded=False),
    "scores": Feedback(scores, check_scores),
    "best": Feedback(best, lays=1, alike=True, least=2),
    "pairs": Feedback(pairs, lays=2, paired=True, least=2),
    "labels": Feedback(labels, check_labels),
    "group_advantage": Feedback(
        rewards_alone, computed.check_group_advantages, least=2, compute=computed.group_advantages, columns=("advantage",)
    ),
    "gae": Feedback(
        rewards_alone,
        computed.check_token_advantages,
        compute=computed.token_advantages,
        token_columns=("token_advantage", "token_return", "rollout_values"),
        finish=computed.whitened,
    ),
}

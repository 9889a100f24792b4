"""What the numbers of partial answers are good for: the area under the ROC curve, and filtering samples before a majority vote.

Goal-conditioned reward models, arXiv 2407.13887; conventions as in its published code.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

SKIPPED = 5  # tokens at the beginning of an answer whose cosine does not count (published code)


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """The probability that a right answer has a higher score than a wrong one, a tie counting half; NaN where there is only one kind.

    Labels are True for a right answer.

    Raises:
      ValueError: the two have different lengths, or a score is not finite.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"{scores.shape} scores and {labels.shape} labels; give one label for each score.")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite; leave these answers out.")
    right, wrong = np.sort(scores[labels]), np.sort(scores[~labels])
    if not len(right) or not len(wrong):
        return float("nan")
    below, not_above = (np.searchsorted(wrong, right, side=side) for side in ("left", "right"))
    return float((below + not_above).sum() / 2 / (len(right) * len(wrong)))


def partial_index(tokens: int, share: float) -> int:
    """The place of the last token of the first part of an answer: max(floor(tokens * share) - 1, 0), for a share in [0, 1]."""
    return max(int(tokens * share) - 1, 0)


def violation(cosines: np.ndarray, *, threshold: float = 0.0, skip: int = SKIPPED) -> int | None:
    """The place of the first token whose cosine with the goal is below the threshold, or NaN, at or after `skip`; None: there is none."""
    (below,) = np.nonzero(~(np.asarray(cosines)[skip:] >= threshold))
    return skip + int(below[0]) if len(below) else None


class Vote(NamedTuple):
    """The vote over the samples of one question."""

    kept: tuple[bool, ...]  # samples that the filter leaves; none dropped where it would drop all
    tokens: int  # of all samples, those skipped at their beginnings not counted
    saved: int  # tokens from the first violation to the end of the samples that are dropped
    optimistic: bool  # at least one right answer, and as many as of the most frequent wrong one: a right one wins ties, as published
    plain: bool  # more right answers than of any wrong one


def vote(
    answers: Sequence[Hashable],
    right: Sequence[bool],
    cosines: Sequence[np.ndarray] | None = None,
    *,
    threshold: float = 0.0,
    skip: int = SKIPPED,
) -> Vote:
    """The majority vote of samples, after those were dropped that a token with a cosine below the threshold shows to be wrong.

    Args:
      answers: of each sample, compared by ==; None where a sample gives no answer, which never wins.
      right: which samples are right.
      cosines: of each sample's tokens with the goal; None filters nothing.
      threshold, skip: as in `violation`.

    Raises:
      ValueError: answers, right and cosines are not of the same samples.
    """
    counts = [len(answers), len(right), *([] if cosines is None else [len(cosines)])]
    if len(set(counts)) > 1:
        raise ValueError(f"a vote over {' and '.join(map(str, counts))} answers, marks and cosines; give one of each per sample.")
    firsts = [None if cosines is None else violation(cosines[i], threshold=threshold, skip=skip) for i in range(len(answers))]
    kept, saved, tokens = tuple(first is None for first in firsts), 0, 0
    if cosines is not None:
        tokens = sum(max(len(x) - skip, 0) for x in cosines)
        saved = sum(len(x) - first for x, first in zip(cosines, firsts, strict=True) if first is not None)
    if not any(kept):
        kept, saved = (True,) * len(answers), 0
    samples = [(answer, ok) for answer, ok, here in zip(answers, right, kept, strict=True) if here]
    correct = sum(ok for _, ok in samples)
    most = max(Counter(answer for answer, ok in samples if not ok and answer is not None).values(), default=0)
    return Vote(kept, tokens, saved, correct >= max(most, 1), correct > most)

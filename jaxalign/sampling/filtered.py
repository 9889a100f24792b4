"""Samples that a reward model drops because they leave its goal, and the vote of those that are left (arXiv 2407.13887)."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from jaxalign.data.rows import memory
from jaxalign.scoring import goal, votes
from jaxalign.scoring.rules import final_number
from jaxalign.scoring.scorer import Scorer

Ids = Sequence[int]
MULTIPLE = 64  # rows have a multiple of so many tokens


def cosines(judge: Scorer, aim: goal.Goal, prompts: Sequence[Ids], samples: Sequence[Sequence[Ids]], *, rows: int, quiet: bool) -> list:
    """The cosines with the goal along each sample of each prompt: [prompt][sample] -> float64[L]. Needs a mesh in scope.

    Args:
      judge: the reward model.
      aim: its goal.
      prompts: token ids.
      samples: token ids of the samples of each prompt.
      rows: of a batch.
      quiet: show no progress.
    """
    groups = [(prompt, [sample]) for prompt, own in zip(prompts, samples, strict=True) for sample in own]
    longest = max(len(prompt) + len(sample) for prompt, (sample,) in groups)
    tokens = -(-longest // MULTIPLE) * MULTIPLE
    prepared = memory.prepared(groups, row_tokens=tokens, max_groups=1, name="samples")
    prepared = dataclasses.replace(prepared, meta={**prepared.meta, **aim.writing})  # the caller asked whether it is written so
    along = iter(sorted(goal.along(judge, prepared, aim, rows=rows, quiet=quiet), key=lambda answer: answer.group))
    return [[next(along).cosines for _ in own] for own in samples]


@dataclasses.dataclass(frozen=True)
class Filtered:
    """What the filter leaves of the samples of several prompts."""

    kept: list[tuple[bool, ...]]  # of each prompt; all where it would drop all
    lowest: list[list[float]]  # the lowest cosine of each sample, those skipped not counted
    report: list[str]  # what it did, in sentences


def keep(
    found: Sequence[Sequence[np.ndarray]], texts: Sequence[Sequence[str]], right: Sequence[str | None], *, threshold: float
) -> Filtered:
    """The samples whose cosines never fall below the threshold; see `votes.vote`.

    Args:
      found: what `cosines` gives.
      texts: of the samples; what they vote for is the number that they end with.
      right: the answer of each prompt's row; None, or one without a number, where there is none, and then its vote is not counted.
      threshold: of the cosine.
    """
    ballots = {"without": [], "with": []}
    kept, saved, total, emptied = [], 0, 0, 0
    for own, said, answer in zip(found, texts, right, strict=True):
        numbers, known = [final_number(text) for text in said], None if answer is None else final_number(answer)
        marks = [known is not None and number == known for number in numbers]
        vote = votes.vote(numbers, marks, own, threshold=threshold)
        kept.append(vote.kept)
        saved, total = saved + vote.saved, total + vote.tokens
        emptied += all(vote.kept) and all(votes.violation(x, threshold=threshold) is not None for x in own)
        if known is not None:
            ballots["without"].append(votes.vote(numbers, marks).plain)
            ballots["with"].append(vote.plain)
    return Filtered(kept, [[_lowest(x) for x in own] for own in found], _report(kept, saved, total, emptied, threshold, ballots))


def _lowest(values: np.ndarray) -> float:
    after = values[votes.SKIPPED :]
    return float(after.min()) if len(after) else 1.0


def _report(kept, saved, total, emptied, threshold, ballots):
    count, dropped = sum(map(len, kept)), sum(not here for own in kept for here in own)
    lines = [
        f"filter: {dropped:,} of {count:,} samples are dropped, whose cosine falls below {threshold:g}; {saved / max(total, 1):.1%} of the "
        "tokens come after that"
    ]
    if emptied:
        lines.append(f"filter: {emptied:,} of {len(kept):,} prompts would keep no sample, and keep all")
    if ballots["with"]:
        shares = ", ".join(f"{np.mean(own):.1%} {name} the filter" for name, own in ballots.items())
        lines.append(f"vote: the majority is right on {shares} ({len(ballots['with']):,} prompts whose rows have an answer)")
    return lines

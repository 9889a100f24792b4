"""What a model says to fixed prompts, judged: rewards, win rates against other answers, KL to a reference, length and repetition.

Every number is a mean over answers, with an error over prompts: the answers to one prompt are not independent of each other.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import NamedTuple

import numpy as np

from jaxalign.data.raw.prompts import Asked
from jaxalign.evaluators.measured import Measured
from jaxalign.evaluators.voices import Answer, Voice, distinct
from jaxalign.reports import win_rates

NAME = "generate"  # what stands before the names of the metrics
EXACT = "exact_match"  # the name of a reward that is a metric of its own: 1 where an answer is right
WIN_RATE, CONTROLLED = "win_rate", "win_rate_length_controlled"
Reward = Callable[[Sequence, Sequence[str], Sequence[Mapping]], np.ndarray]  # (prompts, completions, metadata) -> float32[n]
Compare = Callable[[Sequence, Sequence[str], Sequence[str]], np.ndarray]  # (prompts, firsts, seconds) -> float64[n], 1 where the first wins


@dataclasses.dataclass(frozen=True)
class Judging:
    """How answers are judged."""

    rewards: Mapping[str, Reward]  # by name
    decides: str | Compare | None = None  # the reward, or the judge of pairs, that verdicts come from; None: no verdicts

    @property
    def compare(self) -> Compare | None:
        """The judge of pairs; None where a reward decides, or nothing does."""
        return None if self.decides is None or isinstance(self.decides, str) else self.decides

    def called(self, name: str) -> list[str]:
        """The metrics that show the reward of this name; the one that decides, or the only one, is "reward"."""
        first = name == self.decides or len(self.rewards) == 1
        own = [EXACT] if name == EXACT else [f"reward/{name}"] if len(self.rewards) > 1 else []
        return (["reward"] if first else []) + own

    def metrics(self, *, against: bool, kl: bool) -> list[str]:
        """Whole names of the metrics that `Generation.measure` gives."""
        names = ["tokens", "distinct_2", "stopped", *(metric for name in self.rewards for metric in self.called(name))]
        names += (["kl"] if kl else []) + ([WIN_RATE, CONTROLLED] if against else [])
        return [f"{NAME}/{name}" for name in names]


class Others(NamedTuple):
    """The answers that a model's answers are compared with, one for each of them."""

    origin: str  # "reference", "chosen", or the name of a model
    texts: Sequence[str | None]  # None: there is none
    rewards: Mapping[str, np.ndarray]  # by name, float64[n]; NaN where there is none


class Generation:
    """Fixed prompts with as many answers each, and how answers are judged."""

    def __init__(self, asked: Sequence[Asked], judging: Judging, *, samples: int):
        self.asked, self.judging, self.samples = asked, judging, samples
        self._each = [one for one in asked for _ in range(samples)]
        self._prompts = np.repeat(np.arange(len(asked)), samples)

    def others(self, origin: str, texts: Sequence[Sequence[str | None]]) -> Others:
        """The answers of somebody else, `samples` for every prompt, with their rewards."""
        flat = [text for own in texts for text in own]
        return Others(origin, flat, self._rewards(flat))

    def measure(self, voice: Voice, answers: Sequence[Sequence[Answer]], others: Others | None, kl=None) -> Measured:
        """The metrics of a model's answers, by prompt, and a line for every answer.

        A line contains "id", "sample", "prompt", "text", "tokens" (their number), "stop", "rewards" {name: number or None}; with others
        also "against" {"text", "rewards", "from"} and "verdict": 1, 0.5, 0 or None.

        Args:
          voice: whose answers they are.
          answers: `samples` for every prompt.
          others: what they are compared with.
          kl: (sums, weights) by prompt of the KL to the reference, see `Divergence.measure`.
        """
        flat = [answer for own in answers for answer in own]
        texts = [answer.text for answer in flat]
        rewards = self._rewards(texts)
        values = {
            "tokens": [len(answer.ids) for answer in flat],
            "distinct_2": [distinct(text) for text in texts],
            "stopped": [answer.stop != "length" for answer in flat],
            **{metric: rewards[name] for name in rewards for metric in self.judging.called(name)},
        }
        lines = [
            {
                "id": one.id,
                "sample": i % self.samples,
                "prompt": voice.shown(i // self.samples),
                "text": answer.text,
                "tokens": len(answer.ids),
                "stop": answer.stop,
                "rewards": _numbers(rewards, i),
            }
            for i, (one, answer) in enumerate(zip(self._each, flat, strict=True))
        ]
        further = {}
        if others is not None:
            verdict = self._verdicts(texts, rewards, others)
            lengths = [[0 if text is None else len(text) for text in side] for side in (texts, others.texts)]
            values[WIN_RATE] = verdict
            further[f"{NAME}/{CONTROLLED}"] = win_rates.length_controlled(verdict, *lengths, self._prompts)
            for i, line in enumerate(lines):
                line["against"] = {"text": others.texts[i], "rewards": _numbers(others.rewards, i), "from": others.origin}
                line["verdict"] = _number(verdict[i])
        by_prompt = {name: win_rates.by_prompt(np.asarray(value, np.float64), self._prompts) for name, value in values.items()}
        return Measured({NAME: by_prompt | ({} if kl is None else {"kl": kl})}, further, lines)

    def _rewards(self, texts) -> dict[str, np.ndarray]:
        """Name -> reward of every text, float64[n]; NaN where there is none."""
        there = np.array([i for i, text in enumerate(texts) if text is not None], int)
        given = [self._each[i].prompt for i in there], [texts[i] for i in there], [self._each[i].columns for i in there]
        rewards = {name: np.full(len(texts), math.nan) for name in self.judging.rewards}
        for name, reward in self.judging.rewards.items():
            rewards[name][there] = reward(*given)
        return rewards

    def _verdicts(self, texts, rewards, others) -> np.ndarray:
        """1 where a text wins, 0 where the other's does, 0.5 of a tie, NaN where there is no verdict: float64[n]."""
        if not (compare := self.judging.compare):
            return win_rates.verdicts(rewards[self.judging.decides], others.rewards[self.judging.decides])
        there = np.array([i for i, text in enumerate(others.texts) if text is not None], int)
        verdict = np.full(len(texts), math.nan)
        sides = [texts[i] for i in there], [others.texts[i] for i in there]
        verdict[there] = compare([self._each[i].prompt for i in there], *sides)
        return verdict


def _numbers(values_by_name, i):
    return {name: _number(values[i]) for name, values in values_by_name.items()}


def _number(value) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None

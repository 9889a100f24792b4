"""Decoding guided by a reward model: of several steps that a model draws, the one that is likely and near the goal (arXiv 2407.13887).

The published code searches with a beam and a confidence that the model itself gives to each step; this is its simplest form, one beam and
no confidence.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, Literal

import numpy as np

from jaxalign.models.config import ModelConfig
from jaxalign.sampling.sampler import Sampler
from jaxalign.scoring import goal
from jaxalign.scoring.scorer import Scorer


def positions_of(speaker: ModelConfig, judge: ModelConfig) -> int:
    """The positions of a prompt with its answer: both models read them."""
    return min(speaker.max_positions, judge.max_positions)


@dataclasses.dataclass(frozen=True)
class Guided:
    """An answer made of steps."""

    token_ids: tuple[int, ...]  # the stop token included
    cosines: tuple[float, ...]  # of each step that was taken, of its mean state and the goal
    chances: tuple[float, ...]  # of each step that was taken, its mean log-prob per token
    stop: Literal["stop", "steps", "positions"]  # what ended it: a stop token, the number of steps, or the length of a model


def answer(
    sampler: Sampler,
    params: Any,
    prompt: Sequence[int],
    judge: Scorer,
    aim: goal.Goal,
    *,
    samples: int = 4,
    steps: int = 16,
    weight: float = 1.0,
) -> Guided:
    """The answer to a prompt whose every step is, of the samples drawn, that of the largest mean log-prob + weight * cosine.

    It goes on as long as there is a position left in the sampler's model and in the judge.

    Args:
      sampler: draws a step: its Stopping says where one ends, at a stop string such as a line break, or after max_new_tokens.
      params: of the sampler's model.
      prompt: token ids; the judge must have the same tokenizer.
      judge: the reward model, which sees the prompt and the steps taken before it.
      aim: its goal.
      samples: steps to choose from, >= 1.
      steps: at most, >= 1.
      weight: of the cosine against nats per token; 0 chooses by the log-prob alone.

    Raises:
      ValueError: samples or steps below 1, the goal of other weights, a prompt that leaves no position, or what the sampler refuses.
    """
    if samples < 1 or steps < 1:
        raise ValueError(f"guided decoding got samples={samples}, steps={steps}; both are at least 1.")
    positions = positions_of(sampler.model.config, judge.model.config)
    if len(prompt) >= positions:
        raise ValueError(f"the prompt has {len(prompt):,} tokens, and the models have {positions:,} positions; shorten it.")
    ids, cosines, chances, stop = list(prompt), [], [], None
    while stop is None:
        drawn = sorted(sampler.draw(params, [ids], samples=samples, most=positions - len(ids)), key=lambda sample: sample.number)
        chance = np.array([sample.logps.mean() for sample in drawn], np.float64)
        cosine = goal.of_steps(judge, ids, [sample.token_ids for sample in drawn], aim)
        best = int(np.argmax(chance + weight * cosine))
        ids += drawn[best].token_ids.tolist()
        cosines.append(float(cosine[best]))
        chances.append(float(chance[best]))
        if drawn[best].stop == "stop":
            stop = "stop"
        elif len(ids) >= positions:
            stop = "positions"
        elif len(cosines) == steps:
            stop = "steps"
    return Guided(tuple(ids[len(prompt) :]), tuple(cosines), tuple(chances), stop)

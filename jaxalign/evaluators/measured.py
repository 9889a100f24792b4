"""What evaluations give: metrics by prompt, so that errors and changes can be computed, and several evaluations as one."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Protocol

import jax
from jax.experimental import multihost_utils
import numpy as np

from jaxalign.evaluators import held_out
from jaxalign.evaluators.held_out import ByPrompt
from jaxalign.reports.estimates import Estimate
from jaxalign.reports.log import RunLog


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of one model."""

    sets: dict[str, ByPrompt]  # metrics that are means over prompts, by what stands before their names; "" before those of one set
    further: dict[str, Estimate] = dataclasses.field(default_factory=dict)  # metrics that are no means, by their whole names
    lines: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # one per answer, see `generation.Generation.measure`

    def estimates(self) -> dict[str, Estimate]:
        """All metrics under their whole names."""
        return held_out.estimates(self.sets) | self.further

    def __or__(self, other: "Measured") -> "Measured":
        return Measured(self.sets | other.sets, self.further | other.further, self.lines + other.lines)


class Evaluation(Protocol):
    """Something that measures a train state, beside the objective on held-out rows."""

    def names(self) -> list[str]:
        """Whole names of the metrics that `measure` gives."""

    def measure(self, state) -> Measured:
        """The metrics of a train state. Needs a mesh in scope."""

    def faults(self) -> list[str]:
        """What went wrong with single prompts so far, a line per reason."""


@dataclasses.dataclass(frozen=True)
class Evaluations:
    """Several evaluations as one; none of them measures nothing.

    `labels` divide the prompts of held-out sets, see `held_out.divided`.
    """

    parts: Sequence[Evaluation]
    labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def names(self) -> set[str]:
        """Whole names of all their metrics."""
        divided = {f"{where}/{metric}" for where in held_out.places(self.labels) for metric in held_out.DIVIDED}
        return {name for part in self.parts for name in part.names()} | divided

    def measure(self, state) -> Measured:
        """What all of them measure."""
        found = Measured({})
        for part in self.parts:
            found |= part.measure(state)
        return found

    def evaluate(self, state, step: int, log: RunLog) -> dict[str, Estimate]:
        """The metrics of a train state under their whole names. The log gets the answers, and what went wrong with single prompts."""
        found = self.measure(state)
        if found.lines:
            log.answers(step, found.lines)
        for line in self.faults():
            log.say(line)
        return _of_first_process(found.estimates())

    def faults(self) -> list[str]:
        """What went wrong with single prompts so far, a line per reason."""
        return [line for part in self.parts for line in part.faults()]


def _of_first_process(estimates: dict[str, Estimate]) -> dict[str, Estimate]:
    """The estimates of the first process, on all: a judge may answer each otherwise, and what is best must be the same everywhere."""
    if jax.process_count() == 1:
        return estimates
    numbers = multihost_utils.broadcast_one_to_all(np.array([estimates[name] for name in sorted(estimates)], np.float64))
    return {name: Estimate(float(value), float(se), int(n)) for name, (value, se, n) in zip(sorted(estimates), numbers, strict=True)}

"""A run that went wrong goes back to a good checkpoint and on with later batches: what a checkpoint records of it.

As PaLM was trained through its spikes (Chowdhery et al. 2022, section 5.1): the same batches did no harm to another state.
"""

import dataclasses
from typing import Any


class RollBack(Exception):
    """A step went wrong, and the run has to go back to a good checkpoint."""

    def __init__(self, found: str, step: int):
        super().__init__(f"{found} at step {step}")
        self.found, self.step = found, step


@dataclasses.dataclass(frozen=True)
class Skipped:
    """The batches that a run has not trained on and never will. Without any, a step trains on the batch of its own number."""

    ranges: tuple[tuple[int, int], ...] = ()  # (first, end) of the numbers of batches, in order
    times: int = 0  # that the run has rolled back; more than there are ranges where two became one

    @property
    def batches(self) -> int:
        """How many they are."""
        return sum(end - first for first, end in self.ranges)

    def batch(self, step: int) -> int:
        """The number of the batch of a step that comes after all that is skipped."""
        return step + self.batches


def recorded(run: dict[str, Any]) -> Skipped:
    """What a checkpoint has recorded, see `checkpoint.run_record`; nothing in the records of earlier versions, and where there is none."""
    known = run.get("data", {}).get("skipped", {"ranges": [], "times": 0})
    return Skipped(tuple((first, end) for first, end in known["ranges"]), known["times"])

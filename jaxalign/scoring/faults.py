"""What goes wrong with single samples: a fault takes the place of a score, and is counted by its rule with the first case named."""

from collections.abc import Iterable
import dataclasses

Prompt = str | list[dict]  # as the user wrote it: text, or messages
SHOWN = 40  # characters of a prompt that name a sample


class Fault(Exception):
    """Why a sample has no score: `rule` is the short name of the reason, the message says the value and the way out."""

    def __init__(self, rule: str, message: str):
        super().__init__(message)
        self.rule = rule


@dataclasses.dataclass
class Faults:
    """How many samples were asked for, and the faults of some of them by rule."""

    asked: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=dict)  # rule -> samples
    first: dict[str, str] = dataclasses.field(default_factory=dict)  # rule -> what the first of them was

    @property
    def total(self) -> int:
        """Samples with a fault."""
        return sum(self.counts.values())

    def add(self, asked: int, faults: Iterable[tuple[str, Fault]]) -> None:
        """Counts samples that were asked for, and the faults among them as (what names the sample, fault)."""
        self.asked += asked
        for name, fault in faults:
            self.counts[fault.rule] = self.counts.get(fault.rule, 0) + 1
            self.first.setdefault(fault.rule, f"{name}: {fault}")

    def lines(self, effect: str) -> list[str]:
        """A line per rule, the most frequent first, as "3 of 120 samples left out by timeout; first is ..."; effect: "left out"."""
        order = sorted(self.counts, key=lambda rule: -self.counts[rule])
        return [f"{self.counts[rule]:,} of {self.asked:,} samples {effect} by {rule}; first is {self.first[rule]}" for rule in order]


def shown(prompt: Prompt) -> str:
    """What names a sample in a message: the beginning of its prompt."""
    text = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", "")) if prompt else ""
    return f"the prompt {text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'!r}"

"""A checkpoint beside the model that its training started from: every held-out metric of both, its change, and intervals."""

import math
from typing import Any, NamedTuple

from jaxalign.evaluators import held_out
from jaxalign.evaluators.generation import CONTROLLED, NAME, WIN_RATE
from jaxalign.evaluators.held_out import ByPrompt
from jaxalign.evaluators.measured import Measured
from jaxalign.reports import intervals
from jaxalign.reports.estimates import Estimate
from jaxalign.reports.intervals import Interval

SEED = 0  # of the bootstrap
WILSON, BOOTSTRAP = "wilson", "bootstrap"  # of a share, over prompts
PAIRED = "change_bootstrap"  # of a change, over prompts that bring both their measurements


class Comparison(NamedTuple):
    """What is written of an evaluation."""

    start: dict[str, Estimate]  # empty where the start of the run is not there any more
    checkpoint: dict[str, Estimate]
    change: dict[str, Estimate]
    intervals: dict[str, dict[str, Interval]]  # metric -> kind -> where its true value lies in 95 of 100 cases
    origin: str | None  # whose answers were compared with the checkpoint's

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        parts = {"start": self.start, "checkpoint": self.checkpoint, "change": self.change}
        numbers = {part: {name: one.as_dict() for name, one in values.items()} for part, values in parts.items()}
        bounds = {name: {kind: _bounds(one) for kind, one in kinds.items()} for name, kinds in self.intervals.items()}
        return numbers | ({"intervals": bounds} if bounds else {})

    def sentences(self) -> list[str]:
        """What the intervals say, a sentence each."""
        lines = []
        if (rate := self.checkpoint.get(f"{NAME}/{WIN_RATE}")) and rate.n:
            own, even = self.intervals[f"{NAME}/{WIN_RATE}"], self.checkpoint[f"{NAME}/{CONTROLLED}"]
            kinds = {WILSON: "by Wilson", BOOTSTRAP: "by bootstrap over prompts"}
            there = [f"{own[kind].low:.1%} to {own[kind].high:.1%} {how}" for kind, how in kinds.items() if math.isfinite(own[kind].low)]
            where = f"95 % interval{'s' if there[1:] else ''}: {', '.join(there)}"
            lines.append(f"Against {self.origin} it wins {rate.value:.1%} on {rate.n:,} prompt{'s' if rate.n > 1 else ''} ({where}).")
            lines.append(f"At equal length it wins {even.value:.1%}{f' ± {even.se:.1%}' if math.isfinite(even.se) else ''}.")
        return lines


def compare(before: Measured | None, after: Measured, *, origin: str | None) -> Comparison:
    """The metrics of a checkpoint, `after`, beside those of its start.

    Args:
      before, after: what was measured of them.
      origin: whose answers the checkpoint's were compared with.
    """
    first = {} if before is None else before.sets
    return Comparison(
        before.estimates() if before else {},
        after.estimates(),
        held_out.changes(first, after.sets) if before else {},
        _intervals(first.get(NAME, {}), after.sets.get(NAME, {})),
        origin,
    )


def _intervals(before: ByPrompt, after: ByPrompt) -> dict[str, dict[str, Interval]]:
    found: dict[str, dict[str, Interval]] = {}
    if WIN_RATE in after:
        sums, weights = after[WIN_RATE]
        n = int((weights > 0).sum())
        share = sums.sum() / weights.sum() if n else math.nan
        bootstrap = intervals.bootstrap(sums, weights, seed=SEED)
        found[f"{NAME}/{WIN_RATE}"] = {WILSON: intervals.wilson(share, n), BOOTSTRAP: bootstrap}
    for name in before.keys() & after.keys():
        if name.startswith("reward") or name == WIN_RATE:
            change = intervals.paired_bootstrap(before[name], after[name], seed=SEED)
            found.setdefault(f"{NAME}/{name}", {})[PAIRED] = change
    return found


def _bounds(interval: Interval) -> list[float | None]:
    return [bound if math.isfinite(bound) else None for bound in interval]

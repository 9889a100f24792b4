"""Which groups an epoch trains on where it is not all of them once: those above 0, or drawn by how far above 0 they are.

A-LoL (arXiv 2305.14718) drops what has no positive advantage and draws the rest in proportion to it. A group weighs the sum of
max(column, 0) over its valid responses and keeps them all; what the objective does with a response below 0 is its own affair.
"""

import bisect
import dataclasses
import threading

import numpy as np

from jaxalign.data.rows import pack
from jaxalign.data.rows.store import Prepared


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the groups of an epoch are chosen.

    "shuffle": all of them once. "positive": those that weigh more than 0, once. "priority": as many as "positive", drawn with
    replacement in proportion to their weights; an advantage that multiplies the loss too then counts squared, as in the published code.
    """

    kind: str = "shuffle"
    column: str = "advantage"  # what groups are weighed by: a column of responses, or "reward"


def weights(prepared: Prepared, column: str) -> np.ndarray:
    """What every group weighs: float64[n], the sum of max(column, 0) over its valid responses.

    Raises:
      ValueError: no such column of responses, a number in it is not finite, or no group weighs more than 0.
    """
    groups, name = prepared.groups, prepared.folder.parent.name
    values = groups.reward if column == "reward" else groups.columns.get(column)
    if values is None or values.ndim != 2:
        has = ("reward", *sorted(name for name, values in groups.columns.items() if values.ndim == 2))
        raise ValueError(
            f"data.sampling goes by the column {column!r} and {name} has {has}, numbers of responses. Describe it in data.computed "
            "(python -m jaxalign.annotate writes it), name the data set's own in keep_columns of the source, or set "
            "data.sampling_column to one of these."
        )
    found = np.where(groups.valid, np.maximum(values, 0.0), 0.0).sum(1, dtype=np.float64)
    if not np.isfinite(found).all():
        group = int(np.flatnonzero(~np.isfinite(found))[0])
        raise ValueError(f"column {column!r} of {name} is not finite in group {group}; write it again.")
    if not found.any():
        raise ValueError(
            f"no group of {name} has a response with {column!r} above 0, so there is nothing to draw; use data.sampling='shuffle'."
        )
    return found


def draw(weights: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """The groups that numbers in [0, 1) draw by inverse CDF, in proportion to float[n] weights >= 0: int64, the shape of the numbers."""
    kept = np.flatnonzero(weights > 0)
    cdf = np.cumsum(weights[kept])
    # the last number below 1 may round up to the end of the cdf
    return kept[np.minimum(np.searchsorted(cdf, cdf[-1] * np.asarray(uniforms), side="right"), len(kept) - 1)]


class Rows:
    """The rows of one set in the order of training, without end: element i is the groups int32[G] of row i, -1 where it holds fewer.

    The groups of each epoch are drawn and packed anew. An epoch is a pure function of the seed and its number, so an element is one of
    the seed and its position.
    """

    def __init__(self, prepared: Prepared, sampling: Sampling, *, seed: int):
        self._weights = weights(prepared, sampling.column)
        self._sizes = pack.group_tokens(prepared.groups, share_prompt=prepared.share_prompt)
        self._prepared, self._kind, self._seed = prepared, sampling.kind, seed
        self._plans: list[np.ndarray] = []
        self._stops: list[int] = []  # rows up to the end of each plan
        self._lock = threading.Lock()  # the loader reads from several threads

    @property
    def groups(self) -> int:
        """Groups an epoch."""
        return int(np.count_nonzero(self._weights))

    @property
    def rows(self) -> int:
        """Rows of the first epoch; under "priority" those of others may differ a little."""
        return len(self._epoch(0))

    def __getitem__(self, position: int) -> np.ndarray:
        while (epoch := bisect.bisect_right(self._stops, position)) == len(self._stops):
            self._epoch(epoch)
        plan = self._plans[epoch]
        return plan[position - self._stops[epoch] + len(plan)]

    def _epoch(self, epoch):
        with self._lock:
            while len(self._stops) <= epoch:
                plan = self._plan(len(self._plans))
                self._plans.append(plan)
                self._stops.append(len(plan) + (self._stops[-1] if self._stops else 0))
        return self._plans[epoch]

    def _plan(self, epoch):
        generator = np.random.default_rng((self._seed, epoch))
        if self._kind == "priority":
            drawn = draw(self._weights, generator.random(self.groups))
        else:
            drawn = generator.permutation(np.flatnonzero(self._weights))
        # A row holds at most as many groups as one of the set's own plan, which is one where rows are not packed.
        width = self._prepared.plan.shape[1]
        plan = pack.plan_rows(self._sizes[drawn], row_tokens=self._prepared.row_tokens, pack=True, max_groups=width)
        return generator.permutation(np.where(plan < 0, -1, drawn[plan]).astype(np.int32))

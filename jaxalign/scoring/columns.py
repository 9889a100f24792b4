"""Columns that models give the data: reference log-probs, margins, advantages, scores; computed once and kept beside the prepared rows.

A column's name on disk is a hash of the weights, the rows, its options and VERSION. When it is opened, a few rows are computed again and
compared.
"""

from collections.abc import Iterator, Sequence
import dataclasses
from functools import partial
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from jaxalign.data.rows import columns, pack, store
from jaxalign.scoring import scorer as scoring
from jaxalign.scoring.scorer import Scorer

VERSION = 1  # to be raised by hand when the same weights and rows give other numbers; tests/golden/computed_columns.json holds it
KINDS = {  # kind -> the options of a column that it reads
    "logps": (),
    "implicit_reward": ("beta",),
    "advantage": ("rewards",),
    "score": (),
}


@dataclasses.dataclass(frozen=True)
class Column:
    """A column to compute.

    "logps": the log-probs of the first scorer, a number per token. "implicit_reward": beta times the log-ratio of the first scorer to the
    second, a number per response. "advantage": the sum of the reward columns less the value that the first scorer predicts. "score": the
    reward that the first scorer, a reward model, gives a response.
    """

    name: str
    kind: str  # one of KINDS
    scorers: Sequence[Scorer]
    beta: float = 0.0
    rewards: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The options that its kind reads."""
        return {name: getattr(self, name) for name in KINDS[self.kind]}


def add(column: Column, sets: Sequence[store.Prepared], *, rows: int, quiet: bool) -> Iterator[store.Prepared]:
    """The sets with the column, computed where it is not on disk. Needs a mesh in scope.

    Args:
      rows: of a batch.

    Raises:
      ValueError: the column on disk does not agree with its model, or a column that it sums is missing.
    """
    depends = {"kind": column.kind, **column.options, "weights": [scorer.weights for scorer in column.scorers]}
    depends |= {"dtype": [str(scorer.dtype) for scorer in column.scorers], "version": VERSION}
    for prepared in sets:
        path = columns.path(prepared, column.name, {**depends, **_summed(prepared, column)})
        if _everywhere(columns.is_sound(path)):
            probe = dataclasses.replace(prepared, plan=prepared.plan[:rows])
            kept = columns.read(path)
            columns.check(path, kept, compute(column, probe, rows=rows, quiet=True), tolerance=column.scorers[0].tolerance)
        else:
            computed = compute(column, prepared, rows=rows, quiet=quiet)
            kept = {key: np.nan_to_num(values).astype(np.float32) for key, values in computed.items()}
            store.write_once(path, partial(columns.write, values=kept, meta={"column": column.name, **depends}))
        meta = {**prepared.meta, "columns": [*prepared.meta.get("columns", []), path.name]}
        yield dataclasses.replace(prepared.with_columns(kept), meta=meta)


def compute(column: Column, prepared: store.Prepared, *, rows: int, quiet: bool) -> dict[str, np.ndarray]:
    """The arrays of a column by name, float64; NaN where the rows of `prepared` hold no such token or response."""
    groups, name = prepared.groups, column.name
    if column.kind == "advantage":
        known = {"reward": groups.reward, **groups.columns}
        if missing := [reward for reward in column.rewards if reward not in known]:
            raise ValueError(
                f"data.computed.{name}: rewards={missing} are no columns of {prepared.folder.parent.name}; there are {tuple(known)}."
            )
        values = scoring.responses(column.scorers[0], prepared, rows=rows, quiet=quiet)
        return {name: sum(known[reward].astype(np.float64) for reward in column.rewards) - values}
    if column.kind == "score":
        return {name: scoring.responses(column.scorers[0], prepared, rows=rows, quiet=quiet)}
    by_token = [scoring.tokens(scorer, prepared, rows=rows, quiet=quiet) for scorer in column.scorers]
    if column.kind == "logps":
        responses, donated = np.split(by_token[0], [len(groups.tokens)])
        return {name: responses} if groups.donors is None else {name: responses, f"{name}@{pack.MISMATCHED}": donated}
    policy, reference = (values[: len(groups.tokens)] for values in by_token)
    # r(x, y) = beta (log pi(y | x) - log pi_ref(y | x))
    return {name: column.beta * _sum_responses(policy - reference, groups)}


def _summed(prepared, column):
    """What an advantage depends on beside its own model: the computed columns among its rewards."""
    made = [folder for folder in prepared.meta.get("columns", ()) if folder.rpartition("-")[0] in column.rewards]
    return {"summed": made} if column.kind == "advantage" and made else {}


def _everywhere(complete: bool) -> bool:
    """Whether it is so on all processes: where each has a disk of its own, one that has the column must still compute along."""
    return complete if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.asarray(complete)).all())


def _sum_responses(values, groups):
    """Sums over the pieces of responses: float64[total] -> [n, K]. Log-probs are 0 where a token is not scored."""
    totals = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values))])
    pieces = totals[groups.offsets[1:]] - totals[groups.offsets[:-1]]
    missing = np.concatenate([[0], np.cumsum(np.isnan(values) & (groups.scored > 0))])
    gone = (missing[groups.offsets[1:]] - missing[groups.offsets[:-1]]) > 0
    return np.where(gone, np.nan, pieces).reshape(len(groups), -1)[:, 1:]

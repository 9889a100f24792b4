"""Held-out metrics: the objective's own loss and metrics on rows that are not trained on."""

import jax
import numpy as np

from jaxalign.data.rows import loader
from jaxalign.data.rows.store import Prepared


def evaluate(eval_step, state, sets: dict[str, Prepared], *, rows: int) -> dict[str, float]:
    """Held-out metrics by name: one pass over every prepared set, summed in float64 over all of it before the division.

    Metrics of a set with a name stand under NAME/.
    """
    return {
        f"{name}/{metric}" if name else metric: value
        for name, prepared in sets.items()
        for metric, value in _evaluate_one(eval_step, state, prepared, rows=rows).items()
    }


def _evaluate_one(eval_step, state, prepared, *, rows):
    hosts = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    totals: dict[str, np.ndarray] = {}
    for arrays in loader.iterate(loader.eval_batches(prepared, rows=rows, **hosts)):
        for name, pair in jax.device_get(eval_step(state, loader.to_device(arrays))).items():
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
    return {name: float(total / weight) if weight else float("nan") for name, (total, weight) in totals.items()}

"""Two golds at once: MODPO against mixed losses at equal KL, by the weighted sum that policies were trained for and by the front's area.

Raters go by gold / T + noise, so that both families are trained for w gold_1 / T_1 + (1 - w) gold_2 / T_2, by which they are measured.
"""

from collections.abc import Sequence
import math

import numpy as np

from jaxalign.experiments.goldbench.claims import KLS, at_kl, curves, student
from jaxalign.experiments.goldbench.methods import WEIGHTS
from jaxalign.reports import pareto

AXES = ("gold/sentiment", "gold/plain")
FAMILIES = ("modpo", "mixed")
CORNER = (0.0, 0.0)  # golds lie in [0, 1]


def rows(cells: Sequence[dict], bases: Sequence[dict]) -> list[list[str]]:
    """Rows (KL, what, MODPO, mixed losses, difference with its 95 % interval, seeds); none where a weight or a seed was not measured."""
    tables = {axis: curves(cells, bases, metric=axis) for axis in AXES}
    feedback = next((name for name, method in tables[AXES[0]] if method == f"modpo_{WEIGHTS[0]}"), None)
    members = [(feedback, f"{family}_{weight}") for family in FAMILIES for weight in WEIGHTS]
    if not all(member in tables[AXES[0]] for member in members):
        return []
    seeds = sorted(set.intersection(*(set(tables[AXES[0]][member]) for member in members)))
    temperatures = next(cell["temperatures"] for cell in cells if (cell["feedback"], cell["method"]) == members[0])
    shares, found = np.array([shares_of(weight / 100, temperatures) for weight in WEIGHTS]), []
    for kl in KLS:
        # [seeds, families, weights, golds]
        places = np.array(
            [
                [[[at_kl(*tables[axis][feedback, f"{family}_{w}"][seed], kl) for axis in AXES] for w in WEIGHTS] for family in FAMILIES]
                for seed in seeds
            ]
        )
        if not places.size or np.isnan(places).any():
            continue
        sums = (places * shares).sum(3).mean(2)
        areas = np.array([[pareto.hypervolume_2d(family, CORNER) for family in seed] for seed in places])
        found += [_row(kl, what, values) for what, values in (("mean weighted sum", sums), ("area of the front", areas))]
    return found


def shares_of(weight: float, temperatures: Sequence[float]) -> tuple[float, float]:
    """The shares of two golds, with sum 1, in the reward that labels with this weight of the first teach; each gold counts by its T."""
    first, second = weight / temperatures[0], (1 - weight) / temperatures[1]
    return first / (first + second), second / (first + second)


def _row(kl, what, values):
    mean, half = student(values[:, 0] - values[:, 1])
    gap = f"{mean:+.4f} ± {half:.4f}" if math.isfinite(half) else f"{mean:+.4f}"
    return [f"{kl:g}", what, *(f"{x:.4f}" for x in values.mean(0)), gap, f"{len(values)}"]

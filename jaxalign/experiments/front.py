"""The front of methods that trade two held-out metrics against each other, from the stages of the run that it ends (arXiv 2310.03708)."""

from pathlib import Path

import numpy as np

from jaxalign.experiments.parts import results
from jaxalign.experiments.parts.until import Stop, never, until
from jaxalign.reports import log, pareto


def run(workdir: Path, stop: Stop = never, *, methods: dict, x: str, y: str, corner: tuple, kl: tuple = ()) -> dict:
    """method -> {"points": [stage, x, y], "front": stages on it, "hypervolume"}; written into workdir too.

    Args:
      workdir: beside the folders of the stages.
      methods: name -> stages of this run, in the order of their weights. Ends that methods share may stand under each.
      x, y: the held-out metrics of the two axes, more being better, at the end of each stage.
      corner: (x, y) that the hypervolume is measured from, the same for all methods.
      kl: held-out metrics that the table shows too, as a mean.

    Raises:
      ValueError: a stage has no such metric.
    """
    workdir = Path(workdir)
    found, rows = {}, []
    for name, stages in until(stop, methods.items()):
        points = [(stage, *(_last(workdir.parent / stage, metric) for metric in (x, y))) for stage in stages]
        places = np.array([point[1:] for point in points])
        on = [points[i][0] for i in pareto.pareto_front(places)]
        area = pareto.hypervolume_2d(places, tuple(corner))
        found[name] = {"points": [list(point) for point in points], "front": on, "hypervolume": area}
        for stage, *place in points:
            drift = np.mean([_last(workdir.parent / stage, metric) for metric in kl]) if kl else float("nan")
            rows.append([name, stage, *(f"{value:.4f}" for value in place), f"{drift:.4f}", "yes" if stage in on else "no"])
    tables = {
        "points": (["method", "stage", x, y, "kl", "on the method's front"], rows),
        f"area above {tuple(corner)}": (["method", "hypervolume"], [[name, f"{one['hypervolume']:.4f}"] for name, one in found.items()]),
    }
    drawn = {name: [(place_x, place_y, stage) for stage, place_x, place_y in one["points"]] for name, one in found.items()}
    workdir.mkdir(parents=True, exist_ok=True)
    pareto.front_plot(workdir / "plot.png", drawn, xlabel=x, ylabel=y)
    results.write(workdir, title="Front", tables=tables, results=found)
    return found


def _last(folder, metric):
    lines = log.read_metrics(folder, "eval")
    if not lines or lines[-1].get(metric) is None:
        there = ", ".join(sorted(lines[-1])) if lines else "none"
        raise ValueError(f"stage {folder.name} has no held-out metric {metric!r}; there are {there}.")
    return lines[-1][metric]

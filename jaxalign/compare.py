"""`python -m jaxalign.compare`: a table and plots of the held-out metrics of several runs of one config, by stage.

The runs differ in their seed, and their stages are what is compared:

    python -m jaxalign.compare --runs runs/a_0 runs/a_1 runs/a_2 --metrics accuracy kl --out runs/a
"""

from collections.abc import Callable, Sequence
from pathlib import Path
import sys

from jaxalign.config import command_line
from jaxalign.reports import log

FLAGS = (
    ("--runs", {"nargs": "+", "required": True, "help": "folders of runs with stages, usually one a seed"}),
    ("--stages", {"nargs": "+", "help": "which stages, in this order; all if not given"}),
    ("--metrics", {"nargs": "+", "required": True, "help": "held-out metrics; of several sets SET/METRIC, or METRIC for the mean"}),
    ("--out", {"required": True, "help": "folder to write to"}),
    ("--x", {"help": "a metric: draw --y, another one, against it, a trajectory a stage"}),
    ("--y", {"help": "the metric that is drawn against --x"}),
)

Lines = list[dict]  # the held-out lines of one stage of one run, in order of steps
INITIAL = "initial/"  # what stands before a metric against the first reference, where the reference moves


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes table.md, curves.png and, with --x and --y, trajectories.png; returns the exit code."""
    return command_line.run(_compare, arguments)


def _compare(arguments):
    given = command_line.parse(arguments, __doc__.splitlines()[0], FLAGS, command="compare")
    if (given.x is None) != (given.y is None):
        raise ValueError("--x and --y go together; give both or neither.")
    stages = read([Path(folder) for folder in given.runs], given.stages)
    for metric in [*given.metrics, *filter(None, (given.x, given.y))]:
        _check(stages, metric)
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    text = table(stages, given.metrics)
    (out / "table.md").write_text(text, encoding="utf-8")
    _draw(out / "curves.png", [_curves(stages, metric) for metric in given.metrics])
    if given.x:
        _draw(out / "trajectories.png", [_trajectories(stages, given.x, given.y)])
    print(text)


def read(runs: Sequence[Path], stages: Sequence[str] | None = None) -> dict[str, list[Lines]]:
    """Stage -> the held-out lines of every run; all stages in alphabetical order, or those given in theirs.

    Raises:
      ValueError: a run has no stages or other ones, or a stage was evaluated at other steps than in the first run.
    """
    found: dict[str, list[Lines]] = {}
    for run in runs:
        there = sorted(path.parent.name for path in run.glob(f"*/{log.METRICS}"))
        if not there:
            raise ValueError(f"{run} has no stages; give folders that hold a folder with {log.METRICS} for every stage.")
        wanted = list(stages or found or there)
        if set(wanted) - set(there) or (set(there) - set(wanted) and not stages):
            raise ValueError(f"{run} has the stages {', '.join(there)}, not {', '.join(wanted)}; name what all runs have with --stages.")
        for stage in wanted:
            found.setdefault(stage, []).append(log.read_metrics(run / stage, "eval"))
            before, at = ([line["step"] for line in found[stage][i]] for i in (0, -1))
            if not at or at != before:
                raise ValueError(f"stage {stage} of {run} was evaluated at {at}, of {runs[0]} at {before}; finish it, or leave it out.")
    return found


def value(line: dict, metric: str) -> float | None:
    """A metric of a held-out line; None where it is missing or was undefined.

    With several held-out sets a metric without the name of one is its mean over them, each weighing the same. "initial/NAME" is NAME where
    the reference does not move, because it is the initial one then.
    """
    sets = [""] if "loss" in line else [key.removesuffix("loss") for key in line if key.endswith("/loss") and INITIAL not in key]
    sets = [""] if any(name and metric.startswith(name) for name in sets) else sets
    values = [line.get(prefix + metric, line.get((prefix + metric).replace(INITIAL, "", 1))) for prefix in sets]
    return None if None in values or not values else sum(values) / len(values)


def table(stages: dict[str, list[Lines]], metrics: Sequence[str]) -> str:
    """Markdown: a row a stage, a column a metric, its last held-out value as mean (least to greatest) over the runs."""
    rows = [["stage", *metrics], ["---"] * (1 + len(metrics))]
    rows += [[stage, *(_cell([value(lines[-1], metric) for lines in runs]) for metric in metrics)] for stage, runs in stages.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(values):
    if None in values:
        return "-"
    mean = f"{sum(values) / len(values):.4g}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.4g} to {max(values):.4g})"


def _check(stages, metric):
    lines = [line for runs in stages.values() for run in runs for line in run]
    if all(value(line, metric) is None for line in lines):
        there = sorted({name for line in lines for name in line} - {"step", "split"})
        raise ValueError(f"no stage has the held-out metric {metric!r}; there are {', '.join(there)}.")


def _points(runs, metrics) -> list[tuple[int, list[list[float]]]]:
    # (step, a list of the values of all runs for each metric) where all of them have all
    at = ((lines[0]["step"], [[value(line, metric) for line in lines] for metric in metrics]) for lines in zip(*runs, strict=True))
    return [(step, values) for step, values in at if not any(None in of_runs for of_runs in values)]


def _curves(stages, metric) -> Callable:
    def panel(axes):
        for number, (stage, runs) in enumerate(stages.items()):
            if points := _points(runs, [metric]):
                steps, values = [step for step, _ in points], [of_runs for _, (of_runs,) in points]
                axes.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=f"C{number}", alpha=0.15, linewidth=0)
                axes.plot(steps, [sum(v) / len(v) for v in values], color=f"C{number}", label=stage)
        axes.set(xlabel="step", ylabel=metric)

    return panel


def _trajectories(stages, x, y) -> Callable:
    def panel(axes):
        for number, (stage, runs) in enumerate(stages.items()):
            if points := [values for _, values in _points(runs, [x, y])]:
                across, up = ([sum(of_runs[i]) / len(of_runs[i]) for of_runs in points] for i in (0, 1))
                axes.plot(across, up, color=f"C{number}", marker="o", markersize=3, label=stage)
                axes.plot(*points[-1], color=f"C{number}", linestyle="", marker="x", markersize=6)  # where each run ends
        axes.set(xlabel=x, ylabel=y)

    return panel


def _draw(path, panels):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(panels), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), number)
        panel(axes)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    sys.exit(main())

"""Several runs beside each other: their last held-out metrics, tables and curves. A *row* of the table is a group of seeds."""

from collections.abc import Iterable, Iterator, Sequence
import math
from pathlib import Path
from typing import NamedTuple

from jaxalign.reports import figures, groups, log, page
from jaxalign.reports.estimates import MISSING, Estimate

Evaluations = list[tuple[int, dict[str, Estimate]]]  # (step, held-out metrics), in order of steps
INITIAL = "initial/"  # what stands before a metric against the first reference, where the reference moves


class Row(NamedTuple):
    """What the table has a row for: the runs of it, usually one per seed."""

    name: str
    runs: dict[str, Evaluations]  # name of the run's folder -> its held-out metrics

    def finished(self) -> dict[str, Evaluations]:
        """The runs that were evaluated as far as the furthest of them."""
        last = max((lines[-1][0] for lines in self.runs.values()), default=0)
        return {run: lines for run, lines in self.runs.items() if lines[-1][0] == last}

    def last(self, metric: str) -> list[Estimate]:
        """The metric at the end of every run that is finished; runs that lack it are left out."""
        return list(self.ends(metric).values())

    def ends(self, metric: str) -> dict[str, Estimate]:
        """What `last` gives, by the name of the run's folder."""
        ends = {run: value(lines[-1][1], metric) for run, lines in self.finished().items()}
        return {run: end for run, end in ends.items() if math.isfinite(end.value)}


def read(folders: Sequence[Path], stages: Sequence[str] | None = None) -> tuple[list[Row], list[str]]:
    """(rows, what is missing, a sentence each). All stages in alphabetical order, or those asked for in theirs.

    Raises:
      ValueError: a folder is no run, or nothing of what was asked for was evaluated.
    """
    found, missing = groups.read(folders, stages)
    rows = []
    for group in found if stages else sorted(found, key=lambda group: group.name):
        evaluations = {run: log.read_estimates(folder) for run, folder in group.folders.items()}
        missing += [f"{'/'.join(filter(None, (run, group.stage)))} was never evaluated." for run, lines in evaluations.items() if not lines]
        if any(evaluations.values()):
            rows.append(Row(group.name, {run: lines for run, lines in evaluations.items() if lines}))
    if not rows:
        raise ValueError(f"nothing was evaluated in these runs: {' '.join(missing)}")
    return rows, missing + gaps(rows)


def value(metrics: dict[str, Estimate], metric: str) -> Estimate:
    """A metric among held-out ones; `MISSING` where it is not there or was undefined.

    With several held-out sets a metric without the name of one is its mean over them, each weighing the same. "initial/NAME" is NAME where
    the reference does not move, because it is the initial one then.
    """
    sets = prefixes(metrics)
    sets = [""] if metric in metrics or any(name and metric.startswith(name) for name in sets) else sets
    found = [metrics.get(prefix + metric, metrics.get((prefix + metric).replace(INITIAL, "", 1), MISSING)) for prefix in sets]
    if not found or not all(math.isfinite(one.value) for one in found):
        return MISSING
    error = math.sqrt(sum(one.se**2 for one in found)) / len(found)
    return Estimate(sum(one.value for one in found) / len(found), error, sum(one.n for one in found))


def prefixes(metrics: Iterable[str]) -> list[str]:
    """What stands before the names of metrics: "NAME/" for each of several held-out sets, "" for one set."""
    metrics = list(metrics)
    return [""] if "loss" in metrics else [key.removesuffix("loss") for key in metrics if key.endswith("/loss") and INITIAL not in key]


def headline(rows: Sequence[Row]) -> list[str]:
    """The metrics that are compared unless others are named: accuracy, loss and KL, against the first reference where any moved."""
    names = {name for row in rows for lines in row.runs.values() for name in lines[-1][1]}
    moved = any(INITIAL in name for name in names)
    chosen = [INITIAL + name if moved and name != "loss" else name for name in page.HEADLINE]
    return [metric for metric in chosen if any(row.last(metric) for row in rows)]


def check(rows: Sequence[Row], metric: str) -> None:
    """Raises ValueError where no row has the metric; lists those there are."""
    if not any(row.last(metric) for row in rows):
        there = sorted({name for row in rows for lines in row.runs.values() for name in lines[-1][1]})
        raise ValueError(f"no run has the held-out metric {metric!r}; there are {', '.join(there)}.")


def text(rows: Sequence[Row], metrics: Sequence[str], missing: Sequence[str]) -> str:
    """Markdown: a table of means (least to greatest) over seeds, one of their uncertainty, and what is missing."""
    counts = [len({run for metric in metrics for run in row.ends(metric)}) for row in rows]
    means = [[row.name, str(n), *(_cell(row.last(metric), n) for metric in metrics)] for row, n in zip(rows, counts, strict=True)]
    missing = [*missing, *(sentence for row in rows for sentence in _undefined(row, metrics))]
    lines = [*page.table(["run", "seeds", *metrics], means), ""]
    lines += ["Mean (least to greatest) over seeds, at the end of each run; seeds are those with a value of a metric here.", ""]
    details = [[row.name, metric, *_uncertainty(ends)] for metric in metrics for row in rows if (ends := row.last(metric))]
    lines += page.table(["run", "metric", "mean", "95 % interval over seeds", "standard error over prompts", "prompts"], details)
    lines += ["", "The interval is Student's, for what another seed would give on the same prompts in the mean; the standard error is for"]
    lines += ["what other prompts would give, a mean over the seeds. A difference smaller than either is no finding.", ""]
    return "\n".join([*lines, *(["Missing:", "", *(f"- {sentence}" for sentence in missing), ""] if missing else [])])


def draw(out: Path, rows: Sequence[Row], metrics: Sequence[str], *, x: str | None, y: str | None) -> None:
    """Writes curves.png, a panel per metric over the steps, and where x and y are given trajectories.png, y over x."""
    figures.write(out / "curves.png", [figures.Panel(_curves(rows, metric), "step", metric) for metric in metrics])
    if x and y:
        figures.write(out / "trajectories.png", [figures.Panel(_trajectories(rows, x, y), x, y)])


def points(row: Row, metrics: Sequence[str]) -> Iterator[tuple[int, list[list[float]]]]:
    """(step, values of all finished runs for each metric) at the steps where all of these have all of them."""
    runs = [dict(lines) for lines in row.finished().values()]
    for step in sorted(set.intersection(*map(set, runs))):
        values = [[value(lines[step], metric).value for lines in runs] for metric in metrics]
        if all(math.isfinite(v) for of_runs in values for v in of_runs):
            yield step, values


def gaps(rows: Sequence[Row]) -> list[str]:
    """A sentence for each run that was evaluated less far than others of its row, and for each row with fewer seeds than another."""
    most = max((len(row.runs) for row in rows), default=0)
    return [sentence for row in rows for sentence in _gaps(row, most)]


def _gaps(row, most):
    done = row.finished()
    for run, lines in row.runs.items():
        if run not in done:
            furthest = max(other[-1][0] for other in row.runs.values())
            yield f"{row.name}: {run} was evaluated up to step {lines[-1][0]} of {furthest}; it is left out."
    if len(row.runs) < most:
        yield f"{row.name} has {len(row.runs)} of {most} seeds."


def _undefined(row, metrics):
    for metric in metrics:
        there, all_runs = row.ends(metric), row.finished()
        if there and (without := [run for run in all_runs if run not in there]):
            yield f"{row.name}: {', '.join(without)} {'have' if without[1:] else 'has'} no {metric} at the end; the mean is of the others."


def _cell(ends, seeds):
    if not ends:
        return "-"
    values = [end.value for end in ends]
    mean = f"{sum(values) / len(values):.4g}"
    spread = f" ({min(values):.4g} to {max(values):.4g})" if len(values) > 1 else ""
    return mean + spread + (f", {len(values)} of {seeds} seeds" if len(values) < seeds else "")


def _uncertainty(ends):
    values, n = [end.value for end in ends], len(ends)
    mean = sum(values) / n
    errors = [end.se for end in ends if math.isfinite(end.se)]
    over_prompts = f"{sum(errors) / len(errors):.2g}" if errors else "-"
    interval = "-"
    if n > 1:
        from scipy.special import stdtrit  # jax brings scipy

        half = float(stdtrit(n - 1, 0.975)) * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
        interval = f"{mean - half:.4g} to {mean + half:.4g}"
    return [f"{mean:.4g}", interval, over_prompts, f"{ends[0].n:,}" if ends[0].n else "-"]


def _curves(rows, metric):
    def panel(axes):
        for number, row in enumerate(rows):
            if curve := [(step, of_runs) for step, (of_runs,) in points(row, [metric])]:
                steps, values = zip(*curve, strict=True)
                means = [sum(v) / len(v) for v in values]
                figures.band(axes, steps, means, [min(v) for v in values], [max(v) for v in values], number=number, label=row.name)

    return panel


def _trajectories(rows, x, y):
    def panel(axes):
        for number, row in enumerate(rows):
            if path := [values for _, values in points(row, [x, y])]:
                across, up = ([sum(of_runs[i]) / len(of_runs[i]) for of_runs in path] for i in (0, 1))
                axes.plot(across, up, color=f"C{number}", marker="o", markersize=3, label=row.name)
                axes.plot(*path[-1], color=f"C{number}", linestyle="", marker="x", markersize=6)  # where each run ends

    return panel

"""What changed while training went: reward against KL, and every metric over the steps, all configurations in one panel."""

import collections
from collections.abc import Iterable, Sequence
import math

from jaxalign.reports import comparison, summary
from jaxalign.reports.comparison import INITIAL, Row
from jaxalign.reports.html import charts, measures
from jaxalign.reports.html.charts import Curve
from jaxalign.reports.html.contents import Entry
from jaxalign.reports.html.markup import Markup, folded, join, tag
from jaxalign.reports.html.measures import CONTROLLED, EXACT, REWARD, WIN_RATE, of
from jaxalign.reports.html.questions import rewards
from jaxalign.reports.page import ANSWERS

KL = f"{ANSWERS}kl"
TITLES = {  # metric -> (title, unit)
    REWARD: ("Reward of generated answers", "mean"),
    WIN_RATE: ("Win rate", "a tie counts half"),
    CONTROLLED: ("Win rate at equal length", "a tie counts half"),
    EXACT: ("Right answers", "share"),
    KL: ("KL to the start on own answers", "nats per answer"),
    f"{ANSWERS}tokens": ("Length of generated answers", "tokens"),
    f"{ANSWERS}distinct_2": ("Distinct pairs of words", "share"),
    f"{ANSWERS}stopped": ("Answers that ended by themselves", "share"),
    "accuracy": ("Held-out accuracy", "share of pairs"),
    "kl": ("KL to the reference on held-out answers", "nats per token"),
    "loss": ("Held-out loss", "of the objective"),
}
FIRST = (REWARD, WIN_RATE, CONTROLLED, EXACT, KL, f"{ANSWERS}tokens", "accuracy", "kl")  # the others are folded
POINTS = 120  # of a curve that has more


def trade_off(entries: Sequence[Entry]) -> Markup | None:
    """Reward over KL, a path per configuration whose ring is its end; None where no step has both.

    The KL is to the model that a run started from: configurations that started from different ones stand in panels of their own.
    """
    starts: dict[str, list[Entry]] = {}
    for entry in entries:
        starts.setdefault(entry.facts.get("settings", {}).get("model", "").partition(";")[0], []).append(entry)
    several = len(starts) > 1
    panels = [panel for start, members in starts.items() for panel in _trade_off(members, f", from {start}" if several and start else "")]
    return tag("div", *panels, class_="panels wide") if panels else None


def over_steps(entries: Sequence[Entry]) -> Markup | None:
    """A panel per metric: the mean over seeds, their range as a band, and each seed as a fainter line."""
    rows = _rows(entries)
    moved = {name for name in comparison.headline([row for _, row in rows]) if name.startswith(INITIAL)}
    names = [name for name in _names(rows) if INITIAL + name not in moved]
    first = sorted((name for name in names if rank(name) < len(FIRST)), key=lambda name: (rank(name), name))
    panels = [panel for name in first if (panel := _panel(name, [(entry, _curve(entry, row, name)) for entry, row in rows]))]
    panels += _losses(entries)
    others = sorted(name for name in names if name not in first and name.removeprefix(INITIAL) != "loss")
    more = [panel for name in others if (panel := _panel(name, [(entry, _curve(entry, row, name)) for entry, row in rows]))]
    if not panels and not more:
        return None
    unfolded = tag("div", *panels, class_="panels")
    return join(unfolded, folded(f"{len(more)} more metrics", tag("div", *more, class_="panels")) if more else None)


def rank(name: str) -> int:
    """Where a metric stands among others: its place in FIRST, or behind all of it."""
    metric = measures.metric(name)
    plain = REWARD if metric.startswith(f"{REWARD}/") else metric.removeprefix(INITIAL)
    return FIRST.index(plain) if plain in FIRST else len(FIRST)


def _rows(entries):
    """(entry, its runs that were evaluated as far as the furthest), of entries that have some."""
    rows = [(entry, entry.row()) for entry in entries]
    return [(entry, Row(row.name, row.finished())) for entry, row in rows if row.runs]


def _names(rows) -> set[str]:
    """Names of all metrics; those of several held-out sets without the name of the set."""
    names = set()
    for lines in (lines for _, row in rows for run in row.runs.values() for _, lines in run):
        sets = [prefix for prefix in comparison.prefixes(lines) if prefix]
        names |= {name.removeprefix(next((prefix for prefix in sets if name.startswith(prefix)), "")) for name in lines}
    return names


def _titled(name):
    """(title, unit) of a metric."""
    plain, label = measures.metric(name).removeprefix(INITIAL), measures.label(name)
    title, unit = TITLES.get(plain, (f"Reward {plain.removeprefix(REWARD + '/')}" if plain.startswith(f"{REWARD}/") else plain, ""))
    title = f"{title} ({label})" if label else title
    return f"{title}, against the initial model" if name.startswith(INITIAL) else title, unit


def _trade_off(entries, suffix) -> list[Markup]:
    """Panels of configurations that started from the same model."""
    rows = _rows(entries)
    named = {name.removeprefix(INITIAL): name for name in comparison.headline([row for _, row in rows])}
    together = _together(entries)
    axes = sorted(together, key=lambda pair: (rank(pair[1]), measures.metric(pair[1]), -together[pair], pair))
    axes += [(named["kl"], named["accuracy"])] if {"kl", "accuracy"} <= named.keys() else []
    return [panel for x, y in axes if (panel := _path(rows, x, y, suffix))]


def _together(entries) -> collections.Counter[tuple[str, str]]:
    """(KL, reward or win rate), as they are named, that evaluations measured of the same answers -> of how many configurations."""
    found = collections.Counter()
    for entry in entries:
        evaluations = [one.checkpoint for run in entry.runs for one in run.evaluations]
        found.update({(x, y) for one in evaluations for x in of(one, KL) for y in (*rewards(entries, one), *of(one, WIN_RATE))})
    return found


def _path(rows, x, y, suffix):
    curves = []
    for entry, row in rows:
        steps = [of_runs for _, of_runs in comparison.points(row, [x, y])]
        steps = [steps[i] for i in _spread(len(steps))]
        seeds = [[tuple(values[i] for values in of_runs) for of_runs in steps] for i in range(len(row.runs))]
        points = [tuple(map(_mean, of_runs)) for of_runs in steps]
        if points:
            curves.append(Curve(entry.name, entry.number, points, faint=seeds if len(seeds) > 1 else [], end=True))
    across, up = _titled(x), _titled(y)
    return charts.lines(f"{up[0]}{suffix}", f"{across[0]}, {across[1]}", up[1], curves) if curves else None


def _curve(entry, row, metric):
    points = [(step, of_runs) for step, (of_runs,) in comparison.points(row, [metric])]
    return _banded(entry, [[(step, of_runs[i]) for step, of_runs in points] for i in range(len(row.runs))], marks=True)


def _banded(entry, seeds: list[list[tuple]], *, marks: bool) -> Curve | None:
    """The mean of lines that have the same steps, with their range; None without points."""
    if not seeds or not seeds[0]:
        return None
    seeds, marks = [[line[i] for i in _spread(len(line))] for line in seeds], marks and len(seeds[0]) <= POINTS
    columns = [[line[i][1] for line in seeds] for i in range(len(seeds[0]))]
    points = [(step, _mean(values)) for (step, _), values in zip(seeds[0], columns, strict=True)]
    if len(seeds) == 1:
        return Curve(entry.name, entry.number, points, marks=marks)
    return Curve(entry.name, entry.number, points, [*map(min, columns)], [*map(max, columns)], seeds, marks)


def _panel(name, curves: Iterable[tuple[Entry, Curve | None]], title=None):
    there = [curve for _, curve in curves if curve]
    if all(len(curve.points) < 2 for curve in there):
        return None
    return charts.lines(title or _titled(name)[0], "step", _titled(name)[1], there)


def _losses(entries):
    """Held-out and training loss, a panel for each objective, as those of different objectives are no measure of each other."""
    objectives: dict[str, list[Entry]] = {}
    for entry in entries:
        objectives.setdefault(entry.facts.get("settings", {}).get("objective", ""), []).append(entry)
    for objective, members in objectives.items():
        of = f" of {objective}" if objective else ""
        held_out = [(entry, _curve(entry, row, "loss")) for entry, row in _rows(members)]
        training = [(entry, _banded(entry, _training(entry, "loss"), marks=False)) for entry in members]
        yield from filter(None, (_panel("loss", held_out, f"Held-out loss{of}"), _panel("loss", training, f"Training loss{of}")))


def _training(entry, metric):
    """The smoothed curve of each seed, at the same steps."""
    lines = [{line["step"]: line[metric] for line in run.training if _is_number(line.get(metric))} for run in entry.runs]
    lines = [line for line in lines if line]
    steps = sorted(set.intersection(*map(set, lines))) if lines else []
    return [list(zip(steps, summary.running_mean([line[step] for step in steps]), strict=True)) for line in lines]


def _spread(count) -> list[int]:
    """About POINTS places among so many, with the first and the last."""
    return sorted({*range(0, count, max(math.ceil(count / POINTS), 1)), *range(count)[-1:]})


def _is_number(value):
    return isinstance(value, int | float) and math.isfinite(value)


def _mean(values):
    return sum(values) / len(values)

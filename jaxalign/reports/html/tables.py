"""The tables of a report: results, what differs between the configurations, data, speed and memory, and how it was made."""

from collections.abc import Sequence
import math
import re
import statistics

from jaxalign.reports import comparison, log, start_up, wording
from jaxalign.reports.html import measures
from jaxalign.reports.html.contents import Entry
from jaxalign.reports.html.curves import rank
from jaxalign.reports.html.markup import Markup, folded, join, table, tag
from jaxalign.reports.page import ANSWERS, MEANING

BETWEEN = re.compile(r"[;,] ")  # the parts of a setting that is a text
SPEED = (  # (key of a training line, heading, format)
    ("speed/tokens_per_s", "tokens per second", "{:,.0f}"),
    ("speed/step_s", "seconds per step", "{:.3g}"),
    ("speed/mfu", "share of peak", "{:.1%}"),
    (start_up.TOTAL, "seconds to the first step", "{:.3g}"),
    ("speed/peak_memory_gib", "peak memory, GiB", "{:.2f}"),
)


def results(entries: Sequence[Entry]) -> Markup | None:
    """The last held-out metrics of every configuration, with what they are measured on and what they mean; None where there are none."""
    rows = [row for entry in entries if (row := entry.row()).runs]
    if not rows:
        return None
    names = {name for row in rows for lines in row.runs.values() for name in lines[-1][1] if name.startswith(ANSWERS)}
    metrics = [
        *sorted((name for name in names if any(row.last(name) for row in rows)), key=lambda name: (rank(name), name)),
        *comparison.headline(rows),
    ]
    lines = [[tag("code", metric), *(_cell(row.last(metric)) for row in rows)] for metric in metrics]
    lines += [["seeds", *(f"{len(row.finished())}" for row in rows)]]
    meaning = [tag("li", tag("code", name), f": {text}.") for name, text in MEANING.items() if any(_is(name, m) for m in metrics)]
    note = "At the end of each run: the value ± one standard error over prompts; of several seeds the mean and the least to the greatest."
    table_ = table(["metric", *(row.name for row in rows)], lines)
    what = folded("What they mean", tag("ul", *meaning))
    return join(tag("h3", "All results"), table_, tag("p", note, class_="soft"), what, _answers(entries))


def _answers(entries):
    """How what the models say was drawn and judged, for each evaluation."""
    made = [(entry.name, one.name, one.settings) for entry in entries for run in entry.runs for one in run.evaluations if one.settings]
    rows = [[name, "training" if which == log.ANSWERS else which, how] for name, which, how in dict.fromkeys(made)]
    return folded("How the answers were drawn and judged", table(["", "evaluation", "settings"], rows)) if rows else None


def settings(entries: Sequence[Entry]) -> Markup | None:
    """The parts of the settings that differ, a column per configuration, and folded the others; None where no run has a summary."""
    there = [(entry, entry.facts["settings"]) for entry in entries if "settings" in entry.facts]
    if not there:
        return None
    keys = [key for key in dict.fromkeys(key for _, values in there for key in values) if key != "seed"]
    parts = {key: [_parts(values[key]) if key in values else ["–"] for _, values in there] for key in keys}
    common = {key: [part for part in of_all[0] if all(part in others for others in of_all)] for key, of_all in parts.items()}
    differing = [[key, *(_part([p for p in own if p not in common[key]]) for own in parts[key])] for key in keys]
    differing = [row for row in differing if any(cell != "–" for cell in row[1:])]
    seeds = [_part([run.facts["settings"]["seed"] for run in entry.runs if "seed" in run.facts.get("settings", {})]) for entry, _ in there]
    same = table(["setting", "all of them"], [[key, ", ".join(values)] for key, values in common.items() if values])
    if len(there) == 1:
        return same
    return join(
        table(["differs in", *(entry.name for entry, _ in there)], [*differing, ["seeds", *seeds]]),
        folded("What is the same", same),
    )


def _parts(value):
    return [one.words for one in wording.parts(value)] if isinstance(value, dict) else BETWEEN.split(value)


def data(entries: Sequence[Entry]) -> Markup | None:
    """Every set of rows: what was read and kept, and what rules dropped or changed; None where no run has a summary."""
    users: dict[str, list[str]] = {}
    sets = {}
    for entry in entries:
        for role, facts in entry.facts.get("data", {}).items():
            key = f"{role} {facts}"
            sets[key] = (role, facts)
            users.setdefault(key, []).append(entry.name)
    if not sets:
        return None
    rows = []
    for key, (role, facts) in sets.items():
        kept, read = facts["kept"], facts["read"]
        counts = [f"{facts[name]:,}" for name in ("prompts", "pairs", "tokens")]
        rules = tag("div", *(tag("div", rule) for rule in facts["rules"])) if facts["rules"] else "none"
        share = f"{kept:,} of {read:,}" + (f" ({kept / read:.1%})" if read and kept != read else "")
        rows.append([role, ", ".join(users[key]), f"{facts['source']} ({facts['format']})", share, rules, *counts])
    return table(["set", "of", "source (format)", "rows kept", "rows that rules touched", "prompts", "pairs", "tokens"], rows, name="data")


def cost(entries: Sequence[Entry]) -> Markup | None:
    """Time, speed and memory; the median over a run's lines, then the mean over seeds. None where nothing was measured."""
    rows = []
    for entry in entries:
        speeds = [_mean([median for run in entry.runs if (median := _median(run.training, key)) is not None]) for key, _, _ in SPEED]
        seconds = [run.facts["run"]["seconds"] for run in entry.runs if "run" in run.facts]
        time = _duration(_mean(seconds)) if seconds else "–"
        shown = ["–" if math.isnan(value) else form.format(value) for value, (_, _, form) in zip(speeds, SPEED, strict=True)]
        rows.append([entry.name, time, *shown, entry.facts.get("run", {}).get("devices", "–")])
    if all(cell == "–" for row in rows for cell in row[1:]):
        return None
    note = "Time includes compiling and evaluating; speed is the median of a run; memory is of the fullest device, or of the process."
    return join(table(["", "time", *(heading for _, heading, _ in SPEED), "devices"], rows), tag("p", note, class_="soft"))


def made(entries: Sequence[Entry]) -> Markup | None:
    """The commands, with dates and versions; None where no run has a summary."""
    commands: dict[str, list[str]] = {}
    for entry in entries:
        for facts in (run.facts["run"] for run in entry.runs if "run" in run.facts):
            commands.setdefault(facts["command"], []).append(f"{facts['date']}, {facts['versions']}")
    if not commands:
        return None
    versions = dict.fromkeys(how for hows in commands.values() for how in hows)
    return join(*(tag("pre", command) for command in commands), *(tag("p", how, class_="soft") for how in versions))


def _is(name, metric):
    """Whether a metric is the one of this name, of whatever set and reference."""
    return measures.metric(metric) == name or (not metric.startswith(ANSWERS) and metric.rpartition("/")[2] == name)


def _cell(ends):
    if not ends:
        return "–"
    if len(ends) == 1:
        return str(ends[0]).replace("-", "−")
    values = [end.value for end in ends]
    return f"{_mean(values):.4g} ({min(values):.4g} to {max(values):.4g})".replace("-", "−")


def _part(values):
    return ", ".join(values) or "–"


def _median(lines, key):
    values = [line[key] for line in lines if isinstance(line.get(key), int | float)]
    return statistics.median(values) if values else None


def _mean(values):
    return sum(values) / len(values) if values else math.nan


def _duration(seconds):
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min" if seconds < 36_000 else f"{seconds / 3600:.1f} h"

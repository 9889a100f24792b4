"""What a run leaves for its reader: a page that can be sent to somebody, summary.md, and plots of the metrics as PNG."""

from collections.abc import Sequence
import json
import logging
from pathlib import Path
from typing import Any

from jaxalign.reports import log, page
from jaxalign.reports.estimates import MISSING, Estimate
from jaxalign.reports.figures import Panel, band
from jaxalign.reports.figures import write as write_figure

LOG = logging.getLogger(__name__)
FACTS = "summary.json"
PARTS = {"settings": dict, "data": dict, "samples": list, "run": dict}  # of the facts, and their types
# (title, axis label, [(split, metric, label)]) of each panel; panels without data are left out.
PANELS = (
    ("Loss", "loss", [("train", "loss", "training"), ("eval", "loss", "held out")]),
    ("Accuracy", "share of pairs", [("train", "accuracy", "training"), ("eval", "accuracy", "held out")]),
    ("Reward margin", "beta * margin", [("train", "rewards/margins", "training"), ("eval", "rewards/margins", "held out")]),
    ("Log-probability, held out", "nats per response", [("eval", "logps/chosen", "chosen"), ("eval", "logps/rejected", "rejected")]),
    ("Reward of the answers", "mean", [("train", "rollout/reward", "rollouts"), ("eval", "generate/reward", "generated")]),
    ("Win rate", "share", [("eval", "generate/win_rate", "raw"), ("eval", "generate/win_rate_length_controlled", "at equal length")]),
    ("KL from the reference", "nats per answer", [("train", "rollout/kl", "rollouts"), ("eval", "generate/kl", "generated")]),
)
SMOOTHING = 0.05  # of the run: width of the mean shown over the raw training curve


def write(workdir: Path, facts: dict[str, Any]) -> None:
    """Writes summary.json, summary.md and plots/training.png into the folder of a run, from its metrics.jsonl.

    Args:
      facts: "name", and what `page.page` shows: "settings", "data", "samples", "run". The seconds of earlier starts are added to its own.
    """
    before = (read_facts(workdir) or {}).get("run", {})
    if facts["run"]["start_step"] and all(isinstance(before.get(key), int | float) for key in ("seconds", "starts")):
        facts["run"]["seconds"] += before["seconds"]
        facts["run"]["starts"] = before["starts"] + 1
    (workdir / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    plot(workdir)
    (workdir / "summary.md").write_text(page.page(facts["name"], [stage(workdir, "")]), encoding="utf-8")


def write_stages(workdir: Path, names: Sequence[str], *, title: str) -> None:
    """Writes WORKDIR/summary.md: one page over all stages of a run, beside the page of each stage."""
    (workdir / "summary.md").write_text(page.page(title, [stage(workdir / name, name) for name in names]), encoding="utf-8")


def stage(workdir: Path, name: str) -> page.Stage:
    """What a page shows of a stage: its facts, and held-out metrics before and after. An experiment has a table of its own instead."""
    facts, table = read_facts(workdir), workdir / "table.md"
    if facts is None or not PARTS.keys() <= facts.keys():
        text = table.read_text(encoding="utf-8") if table.exists() else f"{workdir / FACTS} is missing or damaged."
        return page.Stage(name, {}, {}, {}, text)
    first, last = before_and_after(workdir)
    return page.Stage(name, facts, first, last, "")


def read_facts(workdir: Path) -> dict[str, Any] | None:
    """The content of summary.json; None where there is none, or, after a warning, where it is damaged."""
    path = workdir / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(facts, dict) and all(isinstance(facts.get(key, kind()), kind) for key, kind in PARTS.items()):
            return facts
        reason = "it does not hold the facts of a run"
    except FileNotFoundError:
        return None
    except ValueError as error:
        reason = str(error)
    LOG.warning("%s is damaged (%s) and is passed over; a start of the run writes it anew.", path, reason)
    return None


def before_and_after(workdir: Path) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """The held-out estimates before the first step, and the last ones; empty where the log does not contain them."""
    evaluations = log.read_estimates(workdir)
    return dict(evaluations).get(0, {}), evaluations[-1][1] if evaluations else {}


def show(console, workdir: Path, *, finished: bool) -> None:
    """Prints the headline metrics before and after to a rich console, and where the rest is; of a run that was stopped, how to continue."""
    import rich.table

    if not finished:
        console.print(f"The run stopped; its state is saved. The same command continues it: {workdir}", highlight=False)
        return
    first, last = before_and_after(workdir)
    rows = page.headline(last)
    if rows:
        table = rich.table.Table("held out", "before", "after (± one standard error)", "prompts")
        for name in rows:
            table.add_row(name, str(first.get(name, MISSING)), str(last[name]), f"{last[name].n:,}")
        console.print(table)
    console.print(f"More metrics, settings, data and plots: {workdir / 'summary.md'}", highlight=False)


def plot(workdir: Path) -> Path:
    """Draws plots/training.png: one panel for each of PANELS that has data; the band around held-out values is one standard error."""
    training, held_out = log.read_metrics(workdir, "train"), log.read_estimates(workdir)

    def drawn(curves):
        def draw(axes):
            for number, (split, metric, legend) in enumerate(curves):
                if split == "train":
                    steps, values = _series(training, metric)
                    axes.plot(steps, values, color=f"C{number}", alpha=0.25, linewidth=0.8)
                    axes.plot(steps, running_mean(values), color=f"C{number}", label=legend)
                else:
                    points = [(step, found[metric]) for step, found in held_out if metric in found and found[metric].n]
                    low, high = ([one.value + sign * (one.se if one.se == one.se else 0.0) for _, one in points] for sign in (-1, 1))
                    middle = [one.value for _, one in points]
                    band(axes, [step for step, _ in points], middle, low, high, number=number, label=legend)

        return draw

    there = {"train": {name for line in training for name in line if line[name] is not None}, "eval": set()}
    there["eval"] = {name for _, found in held_out for name, one in found.items() if one.n}
    panels = [
        Panel(drawn([curve for curve in curves if curve[1] in there[curve[0]]]), "step", label, title)
        for title, label, curves in PANELS
        if any(metric in there[split] for split, metric, _ in curves)
    ]
    return write_figure(workdir / "plots" / "training.png", panels)


def _series(lines, metric):
    points = [(line["step"], line[metric]) for line in lines if line.get(metric) is not None]
    return [step for step, _ in points], [value for _, value in points]


def running_mean(values):
    """Means over windows that reach equally far to both sides at the beginning, so that the curve starts where the values do."""
    width = max(int(len(values) * SMOOTHING), 1)
    windows = (values[i - min(width, i) : i + min(width, i) + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]

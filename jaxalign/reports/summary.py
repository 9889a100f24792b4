"""What a run leaves for its reader: summary.md with a table of before and after, and plots of the metrics as PNG."""

from pathlib import Path

from jaxalign.reports import log

# (title, axis label, [(split, metric, label)]) a panel; panels without data are left out.
PANELS = (
    ("Loss", "loss", [("train", "loss", "training"), ("eval", "loss", "held out")]),
    ("Accuracy", "share of pairs", [("train", "accuracy", "training"), ("eval", "accuracy", "held out")]),
    ("Reward margin", "beta * margin", [("train", "rewards/margins", "training"), ("eval", "rewards/margins", "held out")]),
    ("Log-probability (held out)", "nats a response", [("eval", "logps/chosen", "chosen"), ("eval", "logps/rejected", "rejected")]),
)
SMOOTHING = 0.05  # of the run: width of the mean shown over the raw training curve

TABLE = (
    ("loss", "loss"),
    ("accuracy", "accuracy: better response gained more than the worse"),
    ("rewards/margins", "reward margin"),
    ("logps/chosen", "log-prob of chosen, nats"),
    ("logps/rejected", "log-prob of rejected, nats"),
    ("logps/accuracies", "likelier side is the chosen one"),
    ("logps/responses", "log-prob of a response, nats"),
    ("ranking/logps", "better response is likelier a token"),
    ("kl", "KL to the reference, nats a token"),
)


def before_and_after(workdir: Path) -> list[tuple[str, float, float]]:
    """(what, first value, last value) of the held-out metrics; empty where nothing was evaluated."""
    lines = log.read_metrics(workdir, "eval")
    if not lines:
        return []
    first, last = lines[0], lines[-1]
    found = []
    for name, title in TABLE:
        # of a set with a name, or against the initial reference: "helpful/loss", "initial/loss"
        keys = [key for key in last if (key == name or key.endswith(f"/{name}"))]
        for key in sorted(keys, key=len):
            if first.get(key) is not None and last[key] is not None:
                prefix = key.removesuffix(name).strip("/")
                found.append((f"{prefix}: {title}" if prefix else title, first[key], last[key]))
    return found


def write(workdir: Path, *, name: str, facts: dict[str, str]) -> None:
    """Writes summary.md and plots/*.png into the run's folder from its metrics.jsonl.

    Args:
      name: title of the run.
      facts: what -> value, shown above the table.
    """
    plot(workdir)
    rows = before_and_after(workdir)
    lines = [f"# {name}", "", *(f"- {what}: {value}" for what, value in facts.items()), ""]
    if rows:
        lines += ["| held out | before | after |", "|---|---|---|", *(f"| {what} | {a:.4f} | {b:.4f} |" for what, a, b in rows), ""]
    lines += ["![training](plots/training.png)", ""]
    (workdir / "summary.md").write_text("\n".join(lines), encoding="utf-8")


def show(console, workdir: Path, *, finished: bool) -> None:
    """Prints the table of before and after to a rich console, or how to continue."""
    import rich.table

    if not finished:
        console.print(f"stopped; the steps so far are saved, and the same command continues from them: {workdir}", highlight=False)
        return
    rows = before_and_after(workdir)
    if rows:
        table = rich.table.Table("held out", "before", "after")
        for what, before, after in rows:
            table.add_row(what, f"{before:.4f}", f"{after:.4f}")
        console.print(table)
    console.print(f"summary and plots: {workdir / 'summary.md'}, {workdir / 'plots'}", highlight=False)


def plot(workdir: Path) -> Path:
    """Draws plots/training.png: one panel for each of PANELS that has data."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    splits = {split: log.read_metrics(workdir, split) for split in ("train", "eval")}
    panels = [panel for panel in PANELS if any(_series(splits[split], metric)[0] for split, metric, _ in panel[2])]
    figure = Figure(figsize=(4.6 * max(len(panels), 1), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (title, label, curves) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for number, (split, metric, legend) in enumerate(curves):
            steps, values = _series(splits[split], metric)
            if split == "train":
                axes.plot(steps, values, color=f"C{number}", alpha=0.25, linewidth=0.8)
                axes.plot(steps, _running_mean(values), color=f"C{number}", label=legend)
            else:
                axes.plot(steps, values, color=f"C{number}", marker="o", markersize=4, label=legend)
        axes.set(title=title, xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    path = workdir / "plots" / "training.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _series(lines, metric):
    points = [(line["step"], line[metric]) for line in lines if line.get(metric) is not None]
    return [step for step, _ in points], [value for _, value in points]


def _running_mean(values):
    width = max(int(len(values) * SMOOTHING), 1)
    windows = (values[max(i - width, 0) : i + width + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]

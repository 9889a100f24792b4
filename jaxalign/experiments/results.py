"""What an experiment leaves in its folder: table.md, results.json and plot.png."""

from collections.abc import Callable, Sequence
import json
from pathlib import Path


def write(workdir: Path, *, title: str, tables: dict[str, tuple[Sequence[str], Sequence[Sequence[str]]]], results: dict) -> None:
    """table.md with one table under each heading, (columns, rows) of text; results.json with the numbers."""
    workdir.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", ""]
    for heading, (columns, rows) in tables.items():
        lines += [f"## {heading}", "", _row(columns), _row(["---"] * len(columns)), *(_row(row) for row in rows), ""]
    (workdir / "table.md").write_text("\n".join([*lines, "![plot](plot.png)", ""]), encoding="utf-8")
    (workdir / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


def plot(workdir: Path, panels: Sequence[tuple[str, str, str, Callable]]) -> None:
    """plot.png, a panel for each (title, x label, y label, draw), where draw(axes) draws the curves and names them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    workdir.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (title, x, y, draw) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        draw(axes)
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(workdir / "plot.png", dpi=110)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""What an experiment leaves in its folder: table.md, results.json and plot.png."""

from collections.abc import Callable, Sequence
import json
from pathlib import Path

from jaxalign.reports import figures, page


def write(workdir: Path, *, title: str, tables: dict[str, tuple[Sequence[str], Sequence[Sequence[str]]]], results: dict) -> None:
    """Writes table.md with one table under each heading, (columns, rows) of text, and results.json with the numbers."""
    workdir.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", ""]
    for heading, (columns, rows) in tables.items():
        lines += [f"## {heading}", "", *page.table(columns, rows), ""]
    (workdir / "table.md").write_text("\n".join([*lines, "![plot](plot.png)", ""]), encoding="utf-8")
    (workdir / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


def plot(workdir: Path, panels: Sequence[tuple[str, str, str, Callable]]) -> None:
    """Writes plot.png with a panel for each (title, x label, y label, draw), where draw(axes) draws the curves and labels them."""
    figures.write(workdir / "plot.png", [figures.Panel(draw, x, y, title) for title, x, y, draw in panels])

"""What an experiment leaves in its folder: table.md, plot.png and, when these are there, results.json."""

from collections.abc import Callable, Sequence
import json
from pathlib import Path
from typing import Any

from jaxalign.reports import figures, page


def write(
    workdir: Path,
    *,
    title: str,
    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[str]]]],
    results: dict,
    panels: Sequence[tuple[str, str, str, Callable]] = (),
) -> None:
    """Writes the three files; results.json, which says that all is there, is the last.

    Args:
      tables: heading -> (columns, rows) of text.
      results: the numbers.
      panels: of plot.png, each (title, x label, y label, draw), where draw(axes) draws the curves and labels them; none: no plot.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", ""]
    for heading, (columns, rows) in tables.items():
        lines += [f"## {heading}", "", *page.table(columns, rows), ""]
    (workdir / "table.md").write_text("\n".join([*lines, "![plot](plot.png)", ""]), encoding="utf-8")
    if panels:
        figures.write(workdir / "plot.png", [figures.Panel(draw, x, y, title) for title, x, y, draw in panels])
    keep(workdir / "results.json", results)


def keep(file: Path, values: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".partial")
    unfinished.write_text(json.dumps(values, indent=1), encoding="utf-8")
    unfinished.rename(file)

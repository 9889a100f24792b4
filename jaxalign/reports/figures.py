"""The one maker of figures: panels side by side, written as a PNG without a display."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PANEL_INCHES = (4.6, 3.7)
DOTS_PER_INCH = 110


class Panel(NamedTuple):
    """One set of axes; `draw(axes)` draws curves and gives them labels, which become the legend."""

    draw: Callable[[Any], None]
    x: str
    y: str
    title: str = ""


def write(path: Path, panels: Sequence[Panel]) -> Path:
    """The path of a PNG of the panels in a row; its folder is made where it is missing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * max(len(panels), 1), height), layout="constrained")
    FigureCanvasAgg(figure)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), number)
        panel.draw(axes)
        axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path


def band(axes, x: Sequence, middle: Sequence, low: Sequence, high: Sequence, *, number: int, label: str) -> None:
    """Draws a curve in the colour of this number with the region from `low` to `high` around it."""
    axes.fill_between(x, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    axes.plot(x, middle, color=f"C{number}", marker="o", markersize=3, label=label)

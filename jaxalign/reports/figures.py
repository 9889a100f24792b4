"""The one maker of figures: panels side by side, written as a PNG without a display."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PANEL_INCHES = (4.6, 3.7)
DOTS_PER_INCH = 110
COLOURS = 255  # of the file; a plot has few beside the shades at the edges of its curves, and the file is a third of the size
PER_ROW = 3  # panels
MOST_INSIDE = 6  # curves whose names stand inside the axes; those of more stand beside them, off the curves
LEGEND_INCHES = 1.4  # of names beside the axes


class Panel(NamedTuple):
    """One set of axes; `draw(axes)` draws curves and gives them labels, which become the legend."""

    draw: Callable[[Any], None]
    x: str
    y: str
    title: str = ""


def write(path: Path, panels: Sequence[Panel]) -> Path:
    """The path of a PNG of the panels in rows; its folder is made where it is missing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    columns, rows, beside = min(PER_ROW, max(len(panels), 1)), max(1, -(-len(panels) // PER_ROW)), 0.0
    figure = Figure(layout="constrained", dpi=DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        panel.draw(axes)
        axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        axes.grid(alpha=0.3)
        if names := axes.get_legend_handles_labels()[1]:
            outside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(names) > MOST_INSIDE else {}
            beside = LEGEND_INCHES if outside else beside
            axes.legend(frameon=False, fontsize="small", **outside)
    width, height = PANEL_INCHES
    figure.set_size_inches((width + beside) * columns, height * rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.draw()
    drawn = Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")
    drawn.quantize(COLOURS, dither=Image.Dither.NONE).save(path, "PNG", optimize=True, dpi=(DOTS_PER_INCH, DOTS_PER_INCH))
    return path


def band(axes, x: Sequence, middle: Sequence, low: Sequence, high: Sequence, *, number: int, label: str) -> None:
    """Draws a curve in the colour of this number with the region from `low` to `high` around it."""
    axes.fill_between(x, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    axes.plot(x, middle, color=f"C{number}", marker="o", markersize=3, label=label)

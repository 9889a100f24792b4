"""Charts as inline SVG: curves with bands, and intervals beside each other. Colours come from the page's style, by number."""

from collections.abc import Sequence
import math
from typing import NamedTuple

from jaxalign.reports.html.markup import Markup, join, tag

WIDTH, HEIGHT = 360, 220  # of a panel, in its own units; on a phone one unit is about one CSS pixel
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 22
COLOURS = 8  # that the style has; further curves are dashed


class Curve(NamedTuple):
    """A line through points, which may have a band around it and fainter lines beside it."""

    name: str
    number: int  # of its colour
    points: list[tuple[float, float]]
    low: list[float] = []  # of the band, point by point; empty: no band
    high: list[float] = []
    faint: list[list[tuple[float, float]]] = []  # lines of the single seeds
    marks: bool = True  # dots at the points
    end: bool = False  # a ring around the last point


class Interval(NamedTuple):
    """A value between two ends, with what stands beside its name."""

    name: str
    number: int
    value: float
    low: float
    high: float
    text: str


def colour(number: int) -> str:
    """CSS class of a colour."""
    return f"c{number % COLOURS}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= 0.7 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def number(value: float) -> str:
    """A number of an axis, short."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}".replace("-", "−")


def lines(title: str, x: str, y: str, curves: Sequence[Curve]) -> Markup:
    """A panel of curves: <figure> with a caption, axes of their own range, and the points' values as tooltips."""
    across = [point[0] for curve in curves for line in (curve.points, *curve.faint) for point in line]
    up = [point[1] for curve in curves for line in (curve.points, *curve.faint) for point in line]
    up += [end for curve in curves for end in (*curve.low, *curve.high)]
    frame = _Frame(_range(across, pad=0.02), _range(up, pad=0.06))
    parts = [frame.grid(), *(_band(frame, curve) for curve in curves if curve.low), *(_curve(frame, curve) for curve in curves)]
    names = ", ".join(curve.name for curve in curves)
    svg = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}: {y} over {x}, of {names}")
    return tag("figure", tag("figcaption", tag("b", title), " ", tag("span", y)), svg, tag("div", x, class_="unit"))


def intervals(rows: Sequence[Interval], *, label: str, line: float | None = None) -> Markup:
    """Values with their intervals below each other on one axis, placed in percent, so that texts keep their size on any screen.

    Args:
      label: of the axis.
      line: a value that is marked across all rows, such as chance.
    """
    ends = [end for row in rows for end in (row.value, row.low, row.high) if math.isfinite(end)]
    low, high = _range([*ends, *([] if line is None else [line])], pad=0.06)
    percent = lambda value: 100 * (value - low) / (high - low)  # noqa: E731
    marks = [] if line is None else [tag("i", class_="mark", style=f"left:{percent(line):.2f}%")]
    parts = []
    for row in rows:
        bar = None
        if math.isfinite(row.low) and math.isfinite(row.high):
            style = f"left:{percent(row.low):.2f}%;width:{percent(row.high) - percent(row.low):.2f}%"
            bar = tag("i", class_=f"bar {colour(row.number)}", style=style)
        dot = tag("i", class_=f"point {colour(row.number)}", style=f"left:{percent(row.value):.2f}%")
        parts.append(tag("div", tag("b", row.name), " ", tag("span", row.text), class_="row"))
        parts.append(tag("div", *marks, bar, dot, class_="track", aria_hidden="true"))
    scale = [tag("span", number(value), style=f"left:{percent(value):.2f}%") for value in ticks(low, high, 5)]
    return tag("div", *parts, tag("div", *scale, class_="scale", aria_hidden="true"), tag("div", label, class_="unit"), class_="intervals")


def legend(names: Sequence[tuple[str, int]]) -> Markup:
    """Names beside their colours."""
    keys = [tag("li", tag("span", class_=f"key {colour(n)}{' dashed' if n >= COLOURS else ''}"), name) for name, n in names]
    return tag("ul", *keys, class_="legend")


class _Frame:
    """Where values stand in a panel."""

    def __init__(self, across, up):
        self._across, self._up = across, up

    def x(self, value):
        low, high = self._across
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def y(self, value):
        low, high = self._up
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    def grid(self):
        bottom, parts = HEIGHT - BOTTOM, []
        for value in ticks(*self._up, 4):
            y = _at(self.y(value))
            parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
            parts.append(tag("text", number(value), x=LEFT - 6, y=_at(self.y(value) + 4), class_="tick", text_anchor="end"))
        for value in ticks(*self._across, 5):
            parts.append(tag("text", number(value), x=_at(self.x(value)), y=bottom + 16, class_="tick", text_anchor="middle"))
        return join(*parts, tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="axis"))


def _band(frame, curve):
    upper = [(x, high) for (x, _), high in zip(curve.points, curve.high, strict=True)]
    lower = [(x, low) for (x, _), low in zip(curve.points, curve.low, strict=True)]
    return tag("polygon", points=_points(frame, [*upper, *reversed(lower)]), class_=f"band {colour(curve.number)}")


def _curve(frame, curve):
    name = f"{colour(curve.number)}{' dashed' if curve.number >= COLOURS else ''}"
    parts = [tag("polyline", points=_points(frame, line), class_=f"faint {name}") for line in curve.faint if len(line) > 1]
    if len(curve.points) > 1:
        parts.append(tag("polyline", points=_points(frame, curve.points), class_=f"line {name}"))
    for x, y in curve.points if curve.marks else []:
        tip = tag("title", f"{curve.name}: {number(y)} at {number(x)}")
        parts.append(tag("circle", tip, cx=_at(frame.x(x)), cy=_at(frame.y(y)), r=2.6, class_=f"dot {name}"))
    if curve.end and curve.points:
        x, y = curve.points[-1]
        parts.append(tag("circle", cx=_at(frame.x(x)), cy=_at(frame.y(y)), r=6, class_=f"ring {name}"))
    return join(*parts)


def _points(frame, line):
    return " ".join(f"{_at(frame.x(x))},{_at(frame.y(y))}" for x, y in line)


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _range(values, *, pad):
    """(least, greatest) with some room on either side; never empty."""
    low, high = min(values), max(values)
    room = (high - low) * pad or max(abs(high), 1e-6) * 0.1
    return low - room, high + room

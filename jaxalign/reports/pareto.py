"""Trade-offs between objectives: Pareto fronts and their plot (arXiv 2310.03708).

Points are mean rewards, one column per objective, more being better.
"""

from pathlib import Path

import numpy as np

from jaxalign.reports import figures


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Which of the points [n, objectives] no other point dominates, by growing first objective: int64[front].

    A point is dominated where another is as good in every objective and better in one; equal points stay together.
    """
    points = np.asarray(points, np.float64)
    as_good = (points[:, None] >= points).all(2)
    better = (points[:, None] > points).any(2)
    front = np.flatnonzero(~(as_good & better).any(0))
    return front[np.lexsort(points[front].T[::-1])]


def hypervolume_2d(points: np.ndarray, reference: tuple[float, float]) -> float:
    """Area that the points [n, 2] dominate above the reference point; compare methods under the same reference only."""
    points, (left, bottom) = np.asarray(points, np.float64), reference
    area = 0.0
    for x, y in points[pareto_front(points)][::-1]:  # by falling x, so rising y
        area += max(x - left, 0.0) * max(y - bottom, 0.0)
        bottom = max(bottom, y)
    return float(area)


def front_plot(path: Path, methods: dict[str, list[tuple[float, float, str]]], *, xlabel: str, ylabel: str) -> None:
    """Writes a PNG with the points (x, y, label) of every method; a line joins those that no point of the same method dominates."""

    def draw(axes):
        for number, (method, points) in enumerate(methods.items()):
            places = np.array([point[:2] for point in points], np.float64)
            front = places[pareto_front(places)]
            axes.plot(front[:, 0], front[:, 1], color=f"C{number}")
            axes.plot(places[:, 0], places[:, 1], color=f"C{number}", marker="o", markersize=5, linestyle="", label=method)
            for x, y, label in points:
                axes.annotate(label, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8, color=f"C{number}")

    figures.write(path, [figures.Panel(draw, xlabel, ylabel)])

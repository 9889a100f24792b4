"""Pictures of plans: how every parameter lies on the mesh, and how memory, collectives and time change with the slice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxalign.planning import memory
from jaxalign.planning.layout import Lying
from jaxalign.reports import figures

MOST_LINES = 64  # between the parts of an axis; more would be one surface
LEAST = 0.01  # share of the memory that a cause has somewhere, to be drawn
ROOM = 1.3  # height of the axes over what they show, for the names of the curves


def layout(path: Path, tree) -> Path:
    """The path of a PNG with a panel per array of a tree of shapes with shardings: its parts, and in colour the part of one device.

    Two dimensions are the sides of a panel, those that are split before others, whatever their sizes; the title has the rest.
    """
    panels = []
    for at, leaf in jax.tree_util.tree_leaves_with_path(tree):
        one = Lying.of(at, leaf)
        down, across = _sides(one)
        panels.append(figures.Panel(_drawing(one, down, across), _side(one, across), _side(one, down), _title(one, {down, across})))
    return figures.write(path, panels)


def growth(path: Path, plans: Sequence[Mapping[str, Any]]) -> Path:
    """The path of a PNG of plans by their number of chips: memory by cause, what a device sends by kind, and the bounds of a step."""
    chips = [plan["chips"] for plan in plans]
    causes = [name for name in memory.CAUSES if any(plan["memory_gib"][name] >= LEAST * plan["total_gib"] for plan in plans)]
    kinds = sorted({one["kind"] for plan in plans for one in plan["collectives"]})

    def over_chips(axes):
        axes.set_xscale("log", base=2)
        axes.set_xticks(chips, [f"{count:,}" for count in chips])
        axes.set_ylim(0, axes.get_ylim()[1] * ROOM)

    def of_memory(axes):
        axes.stackplot(chips, *([plan["memory_gib"][name] for plan in plans] for name in causes), labels=causes, alpha=0.8)
        over_chips(axes)

    def of_collectives(axes):
        for kind in kinds:
            sent = [sum(one["gib"] for one in plan["collectives"] if one["kind"] == kind) for plan in plans]
            axes.plot(chips, sent, marker="o", markersize=3, label=kind)
        over_chips(axes)

    def of_time(axes):
        for name in plans[0]["bound_s"]:
            axes.plot(chips, [plan["bound_s"][name] for plan in plans], marker="o", markersize=3, label=name)
        axes.plot(chips, [plan["step_s"] for plan in plans], color="black", linestyle=":", label="together")
        over_chips(axes)

    panels = ((of_memory, "GiB", "Memory per device"), (of_collectives, "GiB per step", "Sent per device"))
    panels += ((of_time, "s per step", "Bounds of a step"),)
    return figures.write(path, [figures.Panel(draw, "chips", unit, title) for draw, unit, title in panels])


def _sides(one: Lying) -> tuple[int | None, int | None]:
    """The dimensions that a panel shows from top to bottom and from left to right, in their order; None: it has no more of them."""
    by_interest = sorted(range(len(one.shape)), key=lambda dimension: (not one.axes[dimension], -dimension))
    shown = sorted(by_interest[:2])
    return tuple([None] * (2 - len(shown)) + shown)


def _drawing(one: Lying, down: int | None, across: int | None):
    def draw(axes):
        height, width = (1 if side is None else one.shape[side] for side in (down, across))
        tall, wide = (1 if side is None else one.part[side] for side in (down, across))
        axes.add_patch(type(axes.patch)((0, 0), wide, tall, color="C0" if one.names else "C3", alpha=0.7))
        for size, part, line in ((width, wide, axes.axvline), (height, tall, axes.axhline)):
            if size // part <= MOST_LINES:
                for at in range(part, size, part):
                    line(at, color="black", linewidth=0.5)
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])

    return draw


def _title(one: Lying, shown: set[int | None]) -> str:
    others = "x".join(str(size) for dimension, size in enumerate(one.shape) if dimension not in shown)
    where = "on a device" if one.names else "whole on every device"
    return f"{one.name}\n{one.amount} {where}" + (f", {others} of these" if others else "")


def _side(one: Lying, dimension: int | None) -> str:
    """The size of a dimension and its parts, as the label of its axis."""
    if dimension is None:
        return ""
    names = " x ".join(f"{name} {one.sizes[name]}" for name in one.axes[dimension])
    return f"{one.shape[dimension]:,}" + (f" over {names}" if names else "")

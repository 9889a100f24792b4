"""Pictures of plans: how every parameter lies on the mesh, and how memory, collectives and time change with the slice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxalign.planning import memory
from jaxalign.planning.layout import Lying
from jaxalign.reports import figures

MOST_LINES = 64  # between the parts of an axis; more would be one surface


def layout(path: Path, tree) -> Path:
    """The path of a PNG with a panel per array of a tree of shapes with shardings: the array, its parts, and the part of one device.

    The last two dimensions are the sides of the panel, whatever their sizes; the title has the others.
    """
    arrays = [Lying.of(at, leaf) for at, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    return figures.write(path, [figures.Panel(_drawing(one), _side(one, -1), _side(one, -2), _title(one)) for one in arrays])


def growth(path: Path, plans: Sequence[Mapping[str, Any]]) -> Path:
    """The path of a PNG of plans by their number of chips: memory by cause, what a device sends by kind, and the bounds of a step."""
    chips = [plan["chips"] for plan in plans]
    causes = [name for name in memory.CAUSES if any(plan["memory_gib"][name] for plan in plans)]
    kinds = sorted({one["kind"] for plan in plans for one in plan["collectives"]})

    def over_chips(axes):
        axes.set_xscale("log", base=2)
        axes.set_xticks(chips, [f"{count:,}" for count in chips])
        axes.set_ylim(bottom=0)

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


def _drawing(one: Lying):
    def draw(axes):
        width, height = _of(one.shape, -1), _of(one.shape, -2)
        own = (0, 0), _of(one.part, -1), _of(one.part, -2)
        rectangle = type(axes.patch)
        axes.add_patch(rectangle(*own, color="C0" if one.names else "C3", alpha=0.7, label=f"one device: {one.amount}"))
        for size, part, line in ((width, own[1], axes.axvline), (height, own[2], axes.axhline)):
            if size // part <= MOST_LINES:
                for at in range(part, size, part):
                    line(at, color="black", linewidth=0.5)
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[0, width], yticks=[0, height])

    return draw


def _title(one: Lying) -> str:
    stacked = "x".join(map(str, one.shape[:-2]))
    return one.name + (f", {stacked} of them" if stacked else "") + ("" if one.names else ": whole on every device")


def _side(one: Lying, dimension: int) -> str:
    """The parts of a dimension, as the label of its axis."""
    axes = one.axes[dimension] if len(one.axes) >= -dimension else ()
    return " x ".join(f"{name} {one.sizes[name]}" for name in axes) or "not split"


def _of(sizes: Sequence[int], dimension: int) -> int:
    return sizes[dimension] if len(sizes) >= -dimension else 1

"""How every array of a train state lies on the mesh, as text."""

import dataclasses
import math

import jax

from jaxalign.planning.program import local_bytes, local_shape
from jaxalign.planning.text import amount


@dataclasses.dataclass(frozen=True)
class Lying:
    """How an array lies on the mesh."""

    name: str
    shape: tuple[int, ...]
    part: tuple[int, ...]  # of it on a device
    axes: tuple[tuple[str, ...], ...]  # of the mesh that split each dimension
    sizes: dict[str, int]  # of the mesh axes
    amount: str  # of memory on a device

    @staticmethod
    def of(path, leaf) -> "Lying":
        """Of a leaf of a tree of shapes with shardings, and its path there."""
        spec = (*leaf.sharding.spec, *(None,) * (len(leaf.shape) - len(leaf.sharding.spec)))
        axes = tuple(() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in spec)
        name = ".".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        part = tuple(math.ceil(size) for size in local_shape(leaf))
        return Lying(name, tuple(leaf.shape), part, axes, dict(leaf.sharding.mesh.shape), amount(local_bytes(leaf) / 2**30).strip())

    @property
    def names(self) -> list[str]:
        """All mesh axes that split it."""
        return [name for names in self.axes for name in names]


def lines(tree) -> list[str]:
    """A line for each array of a tree of shapes with shardings: its shape, what a device holds, over which mesh axes it is split.

    An array of which every device holds the whole is marked, as it costs the same memory on any number of devices.
    """
    out = [f"{'array':<44} {'shape':<26} {'on a device':<26} split over"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        one = Lying.of(path, leaf)
        over = " x ".join(f"{name} {one.sizes[name]}" for name in one.names) or "nothing: whole on every device"
        out.append(f"{one.name:<44} {_shape(one.shape):<26} {_shape(one.part):<26} {one.amount:>12}  {over}")
    return out


def _shape(sizes) -> str:
    return "x".join(map(str, sizes)) or "number"

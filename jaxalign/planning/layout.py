"""How every array of a train state lies on the mesh, as text."""

import math

import jax

from jaxalign.planning.program import local_bytes, local_shape
from jaxalign.planning.text import amount


def lines(tree) -> list[str]:
    """A line for each array of a tree of shapes with shardings: its shape, what a device holds, over which mesh axes it is split.

    An array of which every device holds the whole is marked, as it costs the same memory on any number of devices.
    """
    out = [f"{'array':<44} {'shape':<26} {'on a device':<26} split over"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = [axis for entry in leaf.sharding.spec if entry for axis in ((entry,) if isinstance(entry, str) else entry)]
        part = tuple(math.ceil(size) for size in local_shape(leaf))
        over = " x ".join(f"{name} {leaf.sharding.mesh.shape[name]}" for name in names) or "nothing: whole on every device"
        name = ".".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        out.append(f"{name:<44} {_shape(leaf.shape):<26} {_shape(part):<26} {amount(local_bytes(leaf) / 2**30)}  {over}")
    return out


def _shape(sizes) -> str:
    return "x".join(map(str, sizes)) or "number"

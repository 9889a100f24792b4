"""What of a collective goes over the network that connects TPU slices, or nodes of GPUs; the rest stays on the links within each."""

from collections.abc import Mapping
import math
import re

import numpy as np

TYPE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
TARGET = re.compile(r'_xla_megascale_target="?\{+([\d,]+)\}')  # "{1,2}x{0:3}", slices x their chips; or {{100000,200000},...}


def share(kind: str, axes: tuple[str, ...], mesh: Mapping[str, int], slice_devices: int) -> float:
    """The share, 0 to 1, of the bytes of a collective over these mesh axes that leave a slice.

    A group of n devices in s slices first does within each slice what it can, so that each device exchanges only its own part with its
    counterparts: (s - 1) / (n - 1) of what it sends. What every device sends to every other leaves the slice as is.

    Args:
      kind: a key of program.SENT.
      mesh: sizes of all axes by name, the outermost first; devices are numbered in this order.
      slice_devices: devices of a slice or node.
    """
    names, sizes = list(mesh), tuple(mesh.values())
    places = np.arange(math.prod(sizes)).reshape(sizes)[tuple(slice(None) if name in axes else 0 for name in names)]
    count, slices = places.size, len(np.unique(places // slice_devices))
    if slices == 1:
        return 0.0
    if kind == "collective-permute":
        return 1.0
    return (count - count // slices) / (count - 1) if kind == "all-to-all" else (slices - 1) / (count - 1)


def transfer(attributes: str) -> tuple[str, int] | None:
    """(kind, slices that take part) of a send between slices, by its attributes in a compiled program; None of another send."""
    named, group = TYPE.search(attributes), TARGET.search(attributes)
    if named is None:
        return None
    if group is None:  # pairs of chips
        return "collective-permute", 2
    return named.group(1).lower().replace("_", "-"), group.group(1).count(",") + 1

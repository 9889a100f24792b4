"""The shapes of the programs of `pallas_gpu` by head size, dtype and card: the one table to tune.

`python tests/benchmarks/attention_kernels.py --tune` times others beside it.
"""

import re
from typing import NamedTuple

MOST_ELEMENTS = 256  # of a head


class Tile(NamedTuple):
    """The shape of a kernel's programs."""

    queries: int  # of a block; a power of 2, as all array sizes in Triton
    keys: int
    warps: int
    stages: int  # of the software pipeline: blocks that are loaded ahead


class Tiles(NamedTuple):
    """The tiles of the kernels: of the attention, of the gradient of queries, of the gradients of keys and values."""

    attention: Tile
    queries: Tile
    keys: Tile


# By bytes per element and elements of a head, filled up to a power of 2. In bfloat16, heads of 64 and of 128 elements have the fastest of
# nine tiles on an H100, for packed pairs and causal rows of 4,096 tokens; the last tile of 64 was not timed and is that of 128. The others
# are known to compile for an H100.
LARGE = {  # for cards with 160 KB of shared memory or more per program
    (2, 64): Tiles(Tile(64, 64, 4, 3), Tile(64, 64, 4, 2), Tile(64, 64, 4, 2)),
    (2, 128): Tiles(Tile(128, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 64, 4, 2)),
    (2, 256): Tiles(Tile(64, 64, 8, 2), Tile(64, 32, 8, 2), Tile(32, 64, 8, 2)),
    (4, 64): Tiles(Tile(64, 32, 4, 2), Tile(64, 32, 4, 2), Tile(32, 64, 4, 2)),
    (4, 128): Tiles(Tile(64, 32, 4, 2), Tile(64, 32, 8, 2), Tile(32, 64, 8, 2)),
    (4, 256): Tiles(Tile(32, 32, 8, 1), Tile(32, 32, 8, 1), Tile(32, 32, 8, 1)),
}
SMALL = {  # for all others
    (2, 64): Tiles(Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 64, 4, 2)),
    (2, 128): Tiles(Tile(64, 32, 4, 2), Tile(64, 32, 4, 2), Tile(32, 64, 4, 2)),
    (2, 256): Tiles(Tile(32, 32, 8, 1), Tile(32, 32, 8, 1), Tile(32, 32, 8, 1)),
    (4, 64): Tiles(Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 4, 2)),
    (4, 128): Tiles(Tile(32, 32, 4, 1), Tile(32, 32, 4, 1), Tile(32, 32, 4, 1)),
    (4, 256): Tiles(Tile(16, 16, 4, 1), Tile(16, 16, 4, 1), Tile(16, 16, 4, 1)),
}
OLDER = re.compile(r"GTX|TITAN|GeForce MX|RTX 20\d\d|NVIDIA T\d")  # cards of earlier generations, which multiply no bfloat16
WITH_LARGE = ("A100", "H100", "H200", "GH200", "B100", "B200", "GB200")  # in the names of such cards


def refusal(head_dim: int, device_kind: str | None) -> str | None:
    """Why the kernels cannot attend with heads of this size on such a device; None: they can."""
    if device_kind is not None and (not device_kind.startswith("NVIDIA") or OLDER.search(device_kind)):
        return f"its kernels are for NVIDIA cards of the Ampere generation or later, not for {device_kind!r}"
    return f"its kernels take heads of at most {MOST_ELEMENTS} elements, not {head_dim}" if head_dim > MOST_ELEMENTS else None


def tiles_for(itemsize: int, head_dim: int, device_kind: str | None) -> Tiles:
    """The tiles for elements of so many bytes and heads of this size on such a device; without a device, the large ones."""
    large = device_kind is None or any(name in device_kind for name in WITH_LARGE)
    size = max(64, 1 << (head_dim - 1).bit_length())
    return (LARGE if large else SMALL)[itemsize, size]

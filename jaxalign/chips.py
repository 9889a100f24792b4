"""What an accelerator can do: one table of peaks, bandwidths and memories, from the makers' data sheets.

Sources. TPUs: the "System architecture" pages of Google Cloud's TPU documentation (v4, v5e, v5p, v6e, TPU7x), which give the peak, the rate
of the memory and the interconnect per chip. Memory of TPUs: what the compiler of libtpu 0.0.42 calls available in the error for a program
that is too large, "exceeds available HBM (15.75G)"; it keeps the rest for itself. GPUs: NVIDIA's data sheets of A100 (80 GB SXM), H100 SXM,
H200 SXM and B200, dense and without sparsity. Rates of the network between slices (DCN): the same pages, which give 50 Gbit/s per chip of
v5p and 6.4 Tbit/s per 256 chips of v5e; of the other TPUs, and of GPUs, those of the usual network cards of a host, shared by its chips.
Clock rates of TPUs follow from the peak and the number of multipliers: peak / (2 * multipliers).
"""

import dataclasses

from jaxalign.suggest import meant


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, or one GPU; rates are per chip and second."""

    name: str
    kinds: tuple[str, ...]  # what jax's device_kind begins with
    flops: float  # dense bf16
    memory_bytes: float  # HBM that a program may use
    memory_rate: float  # bytes read or written
    link_rate: float  # bytes sent in one direction over all links to other chips of a slice, or over NVLink
    network_rate: float  # bytes sent to other slices, or to other nodes
    torus: int = 0  # dimensions of the network within a slice; 0: a switch
    wraps_at: int = 0  # a dimension of a multiple of so many chips closes to a ring, which doubles its rate
    clock: float = 0.0  # cycles; 0: its compiler gives none
    devices: int = 1  # of jax per chip


GIB, G, T = 2**30, 1e9, 1e12
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", ("TPU v4",), 275 * T, 30.75 * GIB, 1228 * G, 300 * G, 6.25 * G, torus=3, wraps_at=4, clock=1.05 * G),
        Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197 * T, 15.75 * GIB, 819 * G, 200 * G, 3.1 * G, torus=2, wraps_at=16, clock=1.5 * G),
        Chip("v5p", ("TPU v5p", "TPU v5"), 459 * T, 95.74 * GIB, 2765 * G, 600 * G, 6.25 * G, torus=3, wraps_at=4, clock=1.75 * G),
        Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918 * T, 31.25 * GIB, 1640 * G, 448 * G, 12.5 * G, torus=2, wraps_at=16, clock=1.75 * G),
        Chip(
            "tpu7x", ("TPU7x", "TPU v7"), 2307 * T, 189.5 * GIB, 7370 * G, 1200 * G, 12.5 * G, torus=3, wraps_at=4, clock=2.2 * G, devices=2
        ),
        Chip("a100", ("NVIDIA A100",), 312 * T, 80 * G, 2039 * G, 300 * G, 25 * G),
        Chip("h100", ("NVIDIA H100",), 989 * T, 80 * G, 3350 * G, 450 * G, 50 * G),
        Chip("h200", ("NVIDIA H200", "NVIDIA GH200"), 989 * T, 141 * G, 4800 * G, 450 * G, 50 * G),
        Chip("b200", ("NVIDIA B200",), 2250 * T, 180 * G, 8000 * G, 900 * G, 50 * G),
    )
}


def named(name: str) -> Chip:
    """The chip of that name.

    Raises:
      ValueError: an unknown name, with the known ones.
    """
    if name not in CHIPS:
        raise ValueError(f"chip {name!r} is not one of {', '.join(CHIPS)}{meant(name, CHIPS)}.")
    return CHIPS[name]


def of_device(kind: str) -> Chip | None:
    """The chip whose device_kind of jax this is, None where the table lacks it; the longest match counts."""
    matches = [(len(prefix), chip) for chip in CHIPS.values() for prefix in chip.kinds if kind.startswith(prefix)]
    return max(matches, key=lambda match: match[0])[1] if matches else None

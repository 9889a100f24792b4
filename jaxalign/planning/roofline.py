"""How long a step takes at least, and about how long it will take: arithmetic, memory traffic and collectives against the chip's rates."""

from collections.abc import Iterable, Mapping
import dataclasses
import math

from jaxalign.planning.program import Collective, Work
from jaxalign.planning.topology import Topology


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Seconds that a step takes at least by each of these."""

    compute: float
    memory: float
    links: float  # within a slice or node
    network: float  # between slices or nodes

    @property
    def overlapped(self) -> float:
        """Seconds where they overlap wholly: no step is faster."""
        return max(vars(self).values())

    @property
    def serial(self) -> float:
        """Seconds where nothing overlaps."""
        return sum(vars(self).values())

    @property
    def limit(self) -> str:
        """Which of them is the largest."""
        return max(vars(self), key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Speed:
    """What a step time means."""

    step_s: float
    tokens_per_s: float  # without padding, all devices together
    mfu: float  # necessary FLOPs over what the chips could do
    hours: float | None  # of the run; None: its number of steps is not known
    chip_hours: float | None
    cost: float | None  # None: no price was given


def bounds(flops: float, moved_bytes: float, collectives: Iterable[Collective], topology: Topology, mesh: Mapping[str, int]) -> Bounds:
    """The bounds of one device's work."""
    links = network = 0.0
    for one in collectives:
        sent = one.times * one.sent_bytes
        links += sent * (1 - one.network) / axes_rate(one.axes, topology, mesh)
        network += sent * one.network / topology.rate("network_rate")
    return Bounds(flops / topology.rate("flops"), moved_bytes / topology.rate("memory_rate"), links, network)


def moved_bytes(work: Work, *, trained: float, optimizer: float) -> float:
    """Bytes that a device reads and writes: those of matrix products, and the update: gradients are written, normed and read, parameters
    and moments read and written. Element-wise operations are taken to be fused into the products."""
    return work.moved_bytes + 3 * trained + 2 * (trained + optimizer)


def axes_rate(axes: tuple[str, ...], topology: Topology, mesh: Mapping[str, int]) -> float:
    """Bytes per second that a device sends over links within a slice or node in a collective over these mesh axes.

    On a torus it is the share of the links that lie along them, by the logarithm of their sizes, half of it where the rows of chips do not
    close to rings.
    """
    rate = topology.rate("link_rate")
    if not topology.is_tpu:
        return rate
    whole = math.log(max(math.prod(topology.shape) * topology.chip.devices, 2))
    share = min(1.0, max(math.log(max(math.prod(mesh[name] for name in axes), 1)) / whole, 1 / topology.chip.torus / 2))
    rings = all(size % topology.chip.wraps_at == 0 for size in topology.shape)
    return rate * share * (1.0 if rings else 0.5)


def speed(step_s: float, *, flops: float, tokens: float, topology: Topology, steps: int | None, price: float | None) -> Speed:
    """The speed of a step of so many seconds.

    Args:
      flops: that a step needs, all devices together.
      tokens: of a step, without padding.
      steps: of the run.
      price: of a chip-hour, in any currency.
    """
    hours = None if steps is None else steps * step_s / 3600
    chip_hours = None if hours is None else hours * topology.chips
    cost = None if chip_hours is None or price is None else chip_hours * price
    mfu = flops / step_s / (topology.chip.flops * topology.chips)
    return Speed(step_s, tokens / step_s, mfu, hours, chip_hours, cost)

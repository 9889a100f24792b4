"""The devices that a plan is for, named on the command line: a TPU slice, GPUs, or this machine's CPU split into simulated devices."""

import dataclasses
import math
import os
import re

from jaxalign import chips
from jaxalign.chips import GIB, Chip

LOCAL = Chip("local", ("cpu",), 2e11, 16 * GIB, 2e10, 1e10, 1e9)  # rates of a few cores of a laptop: orders of magnitude, to try a plan
LOCAL_DEVICES = 8
NODE = 8  # GPUs that NVLink connects
LIBTPU = {  # libtpu looks for a TPU, and asks a metadata server, unless it is told what to compile for
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5p-128",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
MEGACORE = ("v4",)  # whose two cores are one device of jax on a TPU VM; libtpu must be told, and does so unasked for v5p
FORMS = "v4, v5e, v5p, v6e, tpu7x with the chips of a slice as in v5p:4x4x4; 2xv5p:4x4x4 for two slices; gpu:h100:8; local or local:4"


@dataclasses.dataclass(frozen=True)
class Topology:
    """The chips of a plan."""

    name: str  # as it was given
    chip: Chip
    shape: tuple[int, ...]  # chips of one slice along the axes of its torus; of GPUs (number in a node,)
    slices: int = 1  # or nodes, which a slower network connects

    @property
    def chips(self) -> int:
        """All chips."""
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """Devices as jax counts them."""
        return self.chips * self.chip.devices

    @property
    def slice_devices(self) -> int:
        """Devices of one slice or node, which links connect."""
        return self.devices // self.slices

    @property
    def is_tpu(self) -> bool:
        return self.chip.torus > 0

    @property
    def platform(self) -> str:
        """jax's name of the platform."""
        return "tpu" if self.is_tpu else "cpu" if self.chip.name == LOCAL.name else "gpu"

    @property
    def memory_bytes(self) -> float:
        """Of one device."""
        return self.chip.memory_bytes / self.chip.devices

    def rate(self, name: str) -> float:
        """A rate of the chip, or its `flops`, for one device."""
        return getattr(self.chip, name) / self.chip.devices


def parse(text: str) -> Topology:
    """The topology that a text names, see FORMS.

    Raises:
      ValueError: it is of no known form.
    """
    problem = ValueError(f"--topology {text!r} is none of the known forms: {FORMS}.")
    if match := re.fullmatch(r"local(?::(\d+))?", text):
        count = int(match.group(1) or LOCAL_DEVICES)
        return Topology(text, LOCAL, (_positive(count, problem),))
    if match := re.fullmatch(r"gpu:(\w+):(\d+)", text):
        count = _positive(int(match.group(2)), problem)
        if count > NODE and count % NODE:
            raise ValueError(f"--topology {text!r}: more than {NODE} GPUs are whole nodes; use a multiple of {NODE}.")
        chip = chips.named(match.group(1))
        if chip.torus:
            raise problem
        return Topology(text, chip, (min(count, NODE),), max(1, count // NODE))
    match = re.fullmatch(r"(?:(\d+)x)?(\w+):(\d+(?:x\d+)*)", text)
    if not match:
        raise problem
    chip, shape = chips.named(match.group(2)), tuple(_positive(int(size), problem) for size in match.group(3).split("x"))
    if len(shape) != chip.torus:
        example = f"{chip.name}:{'x'.join(['4'] * chip.torus)}" if chip.torus else f"gpu:{chip.name}:8"
        raise ValueError(f"--topology {text!r}: {chip.name} has {chip.torus} axes; write it like {example}.")
    return Topology(text, chip, shape, _positive(int(match.group(1) or 1), problem))


def set_environment(topology: Topology) -> None:
    """What jax must read before it is imported, so that nothing is looked for: the devices here are the CPU's."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if topology.is_tpu:
        os.environ.update(LIBTPU)
    if topology.chip is LOCAL:
        flag = "--xla_force_host_platform_device_count"
        kept = [part for part in os.environ.get("XLA_FLAGS", "").split() if not part.startswith(flag)]
        os.environ["XLA_FLAGS"] = " ".join([*kept, f"{flag}={topology.devices}"])


def devices_of(topology: Topology) -> list:
    """Devices to compile for: described ones of a TPU, simulated ones of the CPU; nothing runs on them.

    Raises:
      ValueError: they cannot be described here.
    """
    import jax

    if topology.chip is LOCAL:
        if len(jax.devices()) < topology.devices:
            raise ValueError(f"--topology {topology.name}: this process has {len(jax.devices())} devices; start the command anew.")
        return jax.devices()[: topology.devices]
    if not topology.is_tpu:
        raise ValueError(f"--topology {topology.name}: the compiler for GPUs needs a GPU; without one there is --quick.")
    from jax.experimental import topologies

    name = f"{topology.chip.name}:{'x'.join(map(str, topology.shape))}"
    options = {"num_slices": topology.slices} if topology.slices > 1 else {}
    options |= {"chip_config_name": "megacore"} if topology.chip.name in MEGACORE else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except Exception as error:  # of whatever kind libtpu raises
        raise ValueError(
            f"--topology {topology.name} cannot be described here: {str(error).splitlines()[0]} It needs libtpu (pip install "
            "'jaxalign[tpu]') and a slice that exists; --quick needs neither."
        ) from error


def _positive(count: int, problem: ValueError) -> int:
    if count < 1:
        raise problem
    return count

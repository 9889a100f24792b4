"""Topologies by name, the table of chips, and the rates of collectives and the bounds that follow from it."""

import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

from jaxalign import chips
from jaxalign.planning import network, roofline, topology
from jaxalign.planning.program import Collective


@pytest.mark.parametrize(
    ("text", "chips_", "devices", "platform"),
    [
        ("v5p:4x4x4", 64, 64, "tpu"), ("2xv5e:4x4", 32, 32, "tpu"), ("tpu7x:4x4x4", 64, 128, "tpu"), ("gpu:h100:8", 8, 8, "gpu"),
        ("gpu:a100:32", 32, 32, "gpu"), ("local:4", 4, 4, "cpu"), ("local", 8, 8, "cpu"),
    ],
)  # fmt: skip
def test_forms(text, chips_, devices, platform):
    made = topology.parse(text)
    assert (made.chips, made.devices, made.platform) == (chips_, devices, platform)


@pytest.mark.parametrize("text", ["", "v5p", "v5p:4x4", "v9:4x4", "gpu:h100", "gpu:v5e:8", "gpu:h100:12", "local:0", "v5e:0x4", "h100:8"])
def test_what_is_no_topology_is_refused(text):
    with pytest.raises(ValueError, match="v5p|h100|v9"):
        topology.parse(text)


@pytest.mark.parametrize(
    ("kind", "name"), [("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("TPU v6 lite", "v6e"), ("NVIDIA H100 80GB HBM3", "h100")]
)
def test_chips_are_known_by_what_jax_calls_them(kind, name):
    assert chips.of_device(kind) is chips.CHIPS[name]


def test_a_device_that_the_table_lacks():
    assert chips.of_device("cpu") is None


def test_a_collective_goes_at_the_rate_of_the_links_along_its_axes():
    pod, mesh = topology.parse("v5p:4x4x4"), {"data": 1, "fsdp": 16, "tensor": 4}
    assert roofline.axes_rate(("fsdp", "tensor"), pod, mesh) == pytest.approx(600e9)
    assert roofline.axes_rate(("fsdp",), pod, mesh) == pytest.approx(400e9)
    assert roofline.axes_rate(("fsdp",), topology.parse("v5e:4x4"), {"data": 1, "fsdp": 16, "tensor": 1}) == pytest.approx(
        100e9
    )  # no rings


@pytest.mark.parametrize(
    ("kind", "axes", "share"),
    [
        ("all-reduce", ("fsdp", "tensor"), 0.0),
        ("all-reduce", ("data",), 1 / 3),  # of 4 devices, 2 in each slice: what each keeps after a sum in the slice crosses once
        ("all-gather", ("data", "fsdp"), 1 / 15),
        ("all-to-all", ("data",), 2 / 3),
        ("collective-permute", ("data",), 1.0),
    ],
)
def test_the_share_of_a_collective_that_crosses_slices(kind, axes, share):
    two, mesh = topology.parse("2xv5e:4x4"), {"data": 4, "fsdp": 4, "tensor": 2}
    assert network.share(kind, axes, mesh, two.slice_devices) == pytest.approx(share)
    sent = Collective(kind, axes, 2e9, 3.0, "", network.share(kind, axes, mesh, two.slice_devices))
    bounds = roofline.bounds(0.0, 0.0, [sent], two, mesh)
    assert bounds.network == pytest.approx(6e9 * share / two.chip.network_rate)
    assert bounds.links == pytest.approx(6e9 * (1 - share) / roofline.axes_rate(axes, two, mesh))
    assert bounds.limit == ("network" if share else "links")


def test_nodes_of_gpus_are_crossed_by_the_inner_axis_as_well():
    assert network.share("all-gather", ("fsdp",), {"data": 1, "fsdp": 32}, topology.parse("gpu:h100:32").slice_devices) == 3 / 31


def test_bounds_and_speed():
    chip = topology.parse("gpu:h100:8")
    sent = Collective("all-gather", ("fsdp",), 450e9, 2.0, "")
    bounds = roofline.bounds(989e12, 3350e9 / 2, [sent], chip, {"data": 1, "fsdp": 8, "tensor": 1})
    assert (bounds.compute, bounds.memory, bounds.links) == (1.0, 0.5, 2.0)
    assert (bounds.overlapped, bounds.serial, bounds.limit) == (2.0, 3.5, "links")
    speed = roofline.speed(2.0, flops=8 * 989e12, tokens=4e6, topology=chip, steps=3600, price=2.5)
    assert (speed.mfu, speed.tokens_per_s, speed.hours, speed.chip_hours, speed.cost) == (0.5, 2e6, 2.0, 16.0, 40.0)


TOO_LARGE = """
import json, re, sys
from jaxalign.planning import compiled, topology

topology.set_environment(topology.parse("v5p:2x2x1"))
import jax

found = {}
for name in sys.argv[2:]:
    devices = topology.devices_of(topology.parse(name))
    x = jax.ShapeDtypeStruct((2**18, 2**18), "float32", sharding=jax.sharding.SingleDeviceSharding(devices[0]))
    made = compiled.compile_step(jax.jit(lambda x: x + 1).lower(x), target=name, options={}, cache=sys.argv[1])
    found[name] = len(devices), made.total / 2**30, float(re.search(r"available HBM .([0-9.]+)G", made.problem).group(1))
print(json.dumps(found))
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'jaxalign[tpu]'")
def test_devices_and_memory_are_those_that_the_compiler_of_tpus_has(tmp_path):
    names = ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"]
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE, str(tmp_path), *names],
        env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(Path(__file__).parents[2])}, text=True, capture_output=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    ours = {name: topology.parse(name) for name in names}
    found = json.loads(done.stdout.splitlines()[-1])
    for name, one in ours.items():  # 1 %: another version may keep some more or less for itself
        assert found[name] == [one.devices, 512.0, pytest.approx(one.memory_bytes / chips.GIB, rel=0.01)], name

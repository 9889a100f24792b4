"""Meshes that cannot be, how fsdp lies on a torus, and data over slices."""

import dataclasses

import numpy as np
import pytest

from jaxalign import sharding


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"data": 0, "fsdp": -1}, "mesh data=0 is not a number of devices; use 1 or more, or -1"),
        ({"tensor": -2}, "mesh tensor=-2 is not a number"),
        ({"data": -1, "fsdp": -1}, "data=-1 x fsdp=-1 x context=1 x tensor=1 does not cover the 8 devices"),
        ({"data": 3, "fsdp": -1}, "data=3 x fsdp=-1 x context=1 x tensor=1 does not cover the 8 devices"),
    ],
)
def test_sizes_that_make_no_mesh_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        sharding.make_mesh(**sizes, devices=range(8))


@pytest.mark.parametrize(
    ("fsdp", "torus", "parts"),
    [
        (64, (4, 4, 4), (16, 4)),
        (16, (4, 4, 4), (4, 4)),
        (4, (4, 4, 4), (4, 1)),
        (64, (8, 8, 1), (8, 8)),
        (1024, (8, 8, 16), (64, 16)),
        (6, (4, 4, 4), (6, 1)),
        (64, (), (64, 1)),
    ],
)
def test_fsdp_lies_along_one_side_of_the_torus_and_across_the_others(fsdp, torus, parts):
    assert sharding.split_fsdp(fsdp, torus) == parts


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a TPU device."""

    coords: tuple[int, int, int]
    slice_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0
    process_index: int = 0


def slices(count, *, rows=4):
    """Devices of slices of 4 x rows chips, of which those of the last slice come first."""
    places = [(x, y, 0) for y in range(rows) for x in range(4)]
    return [Chip(place, index) for index in reversed(range(count)) for place in places]


@pytest.mark.parametrize(("data", "fsdp", "shape"), [(2, -1, (2, 4, 4, 1, 1)), (4, 8, (4, 2, 4, 1, 1)), (-1, 16, (2, 4, 4, 1, 1))])
def test_only_data_lies_across_slices(data, fsdp, shape):
    mesh = sharding.make_mesh(data, fsdp, devices=slices(2))
    assert mesh.devices.shape == shape
    indices = np.array([chip.slice_index for chip in mesh.devices.flat]).reshape(shape)
    assert (indices == np.repeat([0, 1], shape[0] // 2).reshape(-1, 1, 1, 1, 1)).all()


def test_slices_are_counted_where_devices_do_not_name_them():
    mesh = sharding.make_mesh(2, 4, devices=slices(1, rows=2), slices=2, torus=())
    assert [{chip.coords[1] for chip in part.flat} for part in mesh.devices] == [{0}, {1}]


@pytest.mark.parametrize(
    ("sizes", "devices", "words"),
    [
        ({"fsdp": -1}, slices(2), "data=1 is no multiple of the 2 TPU slices.*set mesh.data=2.* and mesh.fsdp=-1.* the 16 devices"),
        ({"data": 2, "fsdp": -1}, slices(4), "data=2 is no multiple of the 4 TPU slices"),
        ({"data": 2, "fsdp": -1}, slices(2)[:-4], "the TPU slices here have 12, 16 devices.* of one size"),
    ],
)
def test_what_would_send_weights_between_slices_is_refused(sizes, devices, words):
    with pytest.raises(ValueError, match=words):
        sharding.make_mesh(**sizes, devices=devices)

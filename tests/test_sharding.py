"""Meshes that cannot be, and how fsdp lies on a torus."""

import pytest

from jaxalign import sharding


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"data": 0, "fsdp": -1}, "mesh data=0 is not a number of devices; use 1 or more, or -1"),
        ({"tensor": -2}, "mesh tensor=-2 is not a number"),
        ({"data": -1, "fsdp": -1}, "data=-1 x fsdp=-1 x tensor=1 does not cover the 8 devices"),
        ({"data": 3, "fsdp": -1}, "data=3 x fsdp=-1 x tensor=1 does not cover the 8 devices"),
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

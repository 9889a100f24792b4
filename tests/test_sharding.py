"""Meshes that cannot be."""

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

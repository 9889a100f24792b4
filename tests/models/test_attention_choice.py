"""Which implementation of attention runs follows from the devices of the mesh in scope, and is refused where it cannot run."""

import itertools
from types import SimpleNamespace

import jax
import pytest

from jaxalign import sharding
from jaxalign.models.attention import gpu_tiles, rule
from jaxalign.models.config import ATTENTIONS


def devices(platform: str):
    """A mesh of one device of a platform that need not be here."""
    device = jax.sharding.AbstractDevice(device_kind="some", num_cores=None, platform=platform)
    types = (jax.sharding.AxisType.Explicit,) * len(sharding.MESH_AXES)
    return jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((1,) * len(sharding.MESH_AXES), sharding.MESH_AXES, axis_types=types, abstract_device=device)
    )


@pytest.fixture
def table(monkeypatch):
    """The implementations of a made-up house: one of them takes narrow heads only."""

    def made(platform, most):
        def refusal(head_dim, device_kind):
            return f"heads are wider than {most} on {device_kind}" if head_dim > most else None

        return rule.Implementation(lambda: SimpleNamespace(refusal=refusal), platform)

    table = {"xla": made(None, 1024), "narrow": made("gpu", 256), "chip": made("tpu", 1024)}
    monkeypatch.setattr(rule, "IMPLEMENTATIONS", table)


def test_the_names_of_the_configuration_are_those_of_the_table():
    assert set(ATTENTIONS) == {rule.AUTO, *rule.IMPLEMENTATIONS}


@pytest.mark.parametrize(
    ("platform", "head_dim", "expected"),
    [
        ("cpu", 64, ("xla", "the one for cpu")),
        ("gpu", 64, ("narrow", "made for gpu")),
        ("gpu", 512, ("xla", "not narrow: heads are wider than 256 on some")),
        ("tpu", 64, ("chip", "made for tpu")),
    ],
)
def test_auto_is_the_implementation_for_the_devices_of_the_mesh(table, platform, head_dim, expected):
    with devices(platform):
        assert rule.choose("auto", head_dim) == expected


def test_without_devices_auto_is_the_oracle(table):
    with sharding.no_devices():
        assert rule.choose("auto", 64)[0] == "xla"


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_the_oracle_runs_everywhere_when_it_is_named(table, platform):
    with devices(platform):
        assert rule.choose("xla", 512) == ("xla", "as named")


@pytest.mark.parametrize(
    ("name", "head_dim", "message"),
    [
        ("flash", 64, "unknown attention 'flash'; choose one of .'auto', 'chip', 'narrow', 'xla'."),
        ("chip", 64, "model.attention='chip' runs on tpu, and the devices are gpu; set it to 'auto'."),
        ("narrow", 512, "model.attention='narrow' cannot be used: heads are wider than 256"),
    ],
)
def test_an_implementation_that_cannot_run_is_refused(table, name, head_dim, message):
    with devices("gpu"), pytest.raises(ValueError, match=message):
        rule.choose(name, head_dim)


def test_an_implementation_for_whole_rows_is_not_chosen_where_their_tokens_are_split():
    with sharding.shapes_only((1, 1, 1, 2, 1), "gpu"):
        assert rule.choose("auto", 64) == ("xla", "not pallas_gpu: mesh.context splits the tokens of a row, and it attends to whole rows")
        with pytest.raises(ValueError, match="model.attention='pallas_gpu' cannot be used: mesh.context splits.*set it to 'auto'"):
            rule.choose("pallas_gpu", 64)
    with sharding.shapes_only((1, 1, 1, 2, 1), "tpu"):
        assert rule.choose("auto", 64) == ("pallas_tpu", "made for tpu")


@pytest.mark.parametrize(
    ("head_dim", "kind", "reason"),
    [
        (128, "NVIDIA H100 80GB HBM3", None),
        (256, None, None),
        (80, "NVIDIA GeForce RTX 4090", None),
        (288, "NVIDIA H100 80GB HBM3", "heads of at most 256 elements, not 288"),
        (128, "Tesla V100-SXM2-16GB", "not for 'Tesla V100-SXM2-16GB'"),
        (128, "gfx942", "not for 'gfx942'"),
        (128, "NVIDIA GeForce RTX 2080 Ti", "not for 'NVIDIA GeForce RTX 2080 Ti'"),
        (128, "NVIDIA TITAN V", "not for 'NVIDIA TITAN V'"),
        (128, "NVIDIA RTX A6000", None),
    ],
)
def test_the_kernels_for_gpus_name_what_they_cannot_do(head_dim, kind, reason):
    refused = gpu_tiles.refusal(head_dim, kind)
    assert (refused is None) if reason is None else refused.endswith(reason)


def test_there_is_a_tile_for_every_head_on_every_card():
    for kind in (None, "NVIDIA H100 80GB HBM3", "NVIDIA L4"):
        for itemsize, head_dim in itertools.product((2, 4), (8, 64, 80, 96, 128, 256)):
            for tile in gpu_tiles.tiles_for(itemsize, head_dim, kind):
                assert all(size & (size - 1) == 0 and size >= 16 for size in (tile.queries, tile.keys))

"""Which implementation of attention runs follows from the devices of the mesh in scope, and is refused where it cannot run."""

import jax
import pytest

from jaxalign import sharding
from jaxalign.models.attention import rule
from jaxalign.models.config import ATTENTIONS


def devices(platform: str):
    """A mesh of one device of a platform that need not be here."""
    device = jax.sharding.AbstractDevice(device_kind="some", num_cores=None, platform=platform)
    types = (jax.sharding.AxisType.Explicit,) * 3
    return jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((1, 1, 1), sharding.MESH_AXES, axis_types=types, abstract_device=device)
    )


@pytest.fixture
def table(monkeypatch):
    """The implementations of a made-up house: the first is too narrow for the widest heads."""
    narrow = rule.Implementation(None, "gpu", lambda head_dim: "heads are wider than 256" if head_dim > 256 else None)
    monkeypatch.setattr(
        rule, "IMPLEMENTATIONS", {"xla": rule.Implementation(None), "narrow": narrow, "chip": rule.Implementation(None, "tpu")}
    )


def test_the_names_of_the_configuration_are_those_of_the_table():
    assert set(ATTENTIONS) == {rule.AUTO, *rule.IMPLEMENTATIONS}


@pytest.mark.parametrize(
    ("platform", "head_dim", "expected"),
    [
        ("cpu", 64, ("xla", "the one for cpu")),
        ("gpu", 64, ("narrow", "made for gpu")),
        ("gpu", 512, ("xla", "not narrow: heads are wider than 256")),
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

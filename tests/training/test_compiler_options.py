"""Options of the compiler for train steps: those that it knows and the user has not set, on the devices that they are for.

What they do on TPUs is in `tests/tpu`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import sharding
from jaxalign.training import compiler_options

KNOWN = "xla_cpu_enable_fast_min_max"


@pytest.fixture
def for_cpus(monkeypatch):
    """Options for the devices here, one of which their compiler does not know."""
    monkeypatch.setattr(compiler_options, "OPTIONS", {"cpu": {KNOWN: True, "xla_cpu_of_a_later_version": True}})
    with jax.set_mesh(sharding.make_mesh(fsdp=8)):  # first, as it needs what the variables say
        for variable in compiler_options.BY_USER:
            monkeypatch.delenv(variable, raising=False)
        yield


@jax.jit
def step(state, batch):
    return state + batch, state * batch


def test_an_option_that_the_compiler_does_not_know_is_left_out(for_cpus):
    assert compiler_options.options() == {KNOWN: True}


@pytest.mark.parametrize("variable", ["LIBTPU_INIT_ARGS", "XLA_FLAGS"])
def test_what_the_user_sets_is_left_to_the_user(for_cpus, monkeypatch, variable):
    monkeypatch.setenv(variable, f"--xla_other=1 --{KNOWN}=false")
    assert compiler_options.options() == {}


def test_a_step_with_options_computes_the_same_and_takes_over_its_state(for_cpus):
    made, state = compiler_options.with_options(step), jnp.arange(4.0)
    assert made is not step
    after, metrics = made(state, jnp.float32(3))
    np.testing.assert_array_equal(after, np.arange(4.0) + 3)
    np.testing.assert_array_equal(metrics, np.arange(4.0) * 3)
    assert state.is_deleted()


def test_steps_for_other_devices_and_for_none_stay_as_they_are():
    with jax.set_mesh(sharding.make_mesh(fsdp=8)):
        assert compiler_options.with_options(step) is step
    with sharding.shapes_only((1, 8, 8, 1, 1), "tpu"):
        assert compiler_options.with_options(step) is step

"""A source that adds the policy's log-probs: those of the last multiple of so many steps, also where a run is continued in between."""

import functools

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign.data.rows import pack
from jaxalign.rollout import source
from jaxalign.types import TrainState

EVERY, STEPS = 3, 8
PLAN = np.arange(8, dtype=np.int32).reshape(4, 2)


@pytest.fixture(autouse=True)
def on_one_device():
    with jax.set_mesh(toys.mesh()):
        yield


@functools.cache
def arrays(number):
    return pack.assemble(toys.groups(8, seed=number), PLAN, row_tokens=80, share_prompt=True)


def numbered(state, batch):
    """In the place of log-probs: the number of steps that the policy has done, and what tells batches apart."""
    return state.step + batch.tokens / 1000


def after(state, step):
    return state.replace(step=jnp.int32(step))


def batches(start):
    dataset = grain.MapDataset.range(STEPS).map(arrays)
    return source.PolicyLogps(dataset, start, policy_logps=numbered, column="seen", every=EVERY)


def begun():
    return TrainState(jnp.int32(0), {}, None, (), jnp.zeros(2, jnp.uint32), source=source.PolicyLogps.carried(EVERY, 4, 80))


def test_the_column_is_of_the_policy_at_the_last_multiple_and_of_the_batch_itself():
    state, made = begun(), batches(0)
    for step in range(STEPS):  # the last window is cut short by the end of the data
        state, here, batch = made.next(after(state, step), step)
        np.testing.assert_array_equal(here["tokens"], arrays(step)["tokens"])
        expected = step // EVERY * EVERY + arrays(step)["tokens"] / 1000
        np.testing.assert_allclose(batch.columns["seen"], expected, rtol=1e-6)


@pytest.mark.parametrize("stopped", [1, 3, 5])
def test_a_source_that_is_continued_in_a_window_goes_on_with_what_the_state_carries(stopped):
    state, whole, seen = begun(), batches(0), {}
    for step in range(STEPS):
        kept = after(state, step)
        if step == stopped:
            state_then = jax.tree.map(jnp.copy, kept)
        state, _, batch = whole.next(kept, step)
        seen[step] = np.asarray(batch.columns["seen"])
    state, again = state_then, batches(stopped)
    for step in range(stopped, STEPS):
        state, _, batch = again.next(after(state, step), step)
        np.testing.assert_array_equal(batch.columns["seen"], seen[step])


def test_plain_rows_leave_the_state_alone():
    state = begun().replace(source=None)
    after_it, here, batch = source.Rows(grain.MapDataset.range(2).map(arrays), 1).next(state, 1)
    assert after_it is state and set(batch.columns) == set(here["columns"])
    np.testing.assert_array_equal(batch.tokens, arrays(1)["tokens"])

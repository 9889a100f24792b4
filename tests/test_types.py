"""The two maps between rows of tokens and responses, and the layout of microbatches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign import sharding, types
from jaxalign.data.rows import pack

MESHES = pytest.mark.parametrize("mesh", [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2)], ids=str)
PLAN = np.arange(16, dtype=np.int32).reshape(8, 2)  # on eight devices every one has a single row


def arrays():
    return pack.assemble(toys.groups(16, seed=2), PLAN, row_tokens=80, share_prompt=True)


@MESHES
def test_sums_over_responses_are_those_of_a_plain_loop(mesh):
    x = np.random.default_rng(0).standard_normal((8, 80)).astype(np.float32)
    expected = np.zeros((8, 6))  # two groups of three responses, of which the last is another prompt's
    for row, token in zip(*np.nonzero(arrays()["slots"] >= 0), strict=True):
        expected[row, arrays()["slots"][row, token]] += x[row, token]
    with jax.set_mesh(toys.mesh(mesh)):
        batch = toys.place(arrays())
        found = jax.jit(types.sum_responses)(jax.device_put(x, sharding.named(sharding.rows_spec(2))), batch)
        assert found.sharding.spec == batch.valid.sharding.spec
    np.testing.assert_allclose(found, expected.reshape(16, 3), rtol=1e-5, atol=1e-6)


@MESHES
def test_every_scored_token_gets_the_value_of_its_response(mesh):
    values = np.arange(1.0, 49.0, dtype=np.float32).reshape(16, 3)
    slots = arrays()["slots"]
    expected = np.where(slots >= 0, np.take_along_axis(values.reshape(8, 6), np.maximum(slots, 0), axis=1), 0)
    with jax.set_mesh(toys.mesh(mesh)):
        found = jax.jit(types.at_tokens)(jax.device_put(values, sharding.named(sharding.rows_spec(2))), toys.place(arrays()))
    np.testing.assert_array_equal(found, expected)


def test_lengths_count_scored_tokens_only():
    with jax.set_mesh(toys.mesh()):
        lengths = types.response_lengths(toys.place(arrays()))
    groups = toys.groups(16, seed=2)
    expected = [[groups.piece(g, 1 + k)[1].sum() for k in range(3)] for g in range(16)]
    np.testing.assert_array_equal(lengths, expected)
    assert lengths.dtype == jnp.float32 and lengths[1, 1] == 0

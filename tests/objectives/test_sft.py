"""SFT: the mean over tokens of the negative log-likelihood."""

import jax.numpy as jnp
import numpy as np

from jaxalign.objectives.sft import sft
from jaxalign.types import Batch, Outputs


def test_the_loss_is_a_mean_over_the_scored_tokens_of_valid_responses():
    slots = jnp.array([[-1, 0, 0, 0, -1, 1]], jnp.int32)
    logps = jnp.array([[0.0, -1.0, -2.0, -6.0, 0.0, -9.0]])
    ones = jnp.ones_like(slots)
    batch = Batch(ones, ones, ones, ones, slots, jnp.zeros((1, 2)), jnp.zeros(1, bool), jnp.array([[True, False]]))
    terms = sft(Outputs(logps, logps, logps), None, batch)
    np.testing.assert_array_equal(terms.weight, [[0, 1, 1, 1, 0, 0]])  # response 1 is filler
    np.testing.assert_allclose(np.average(terms.loss, weights=terms.weight), 3.0)
    value, weight = terms.metrics["logps/responses"]
    np.testing.assert_allclose(value[0, 0], -9.0)
    np.testing.assert_array_equal(weight, [[1.0, 0.0]])

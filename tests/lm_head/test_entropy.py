"""The entropy of next-token distributions against the dense one, value and gradient, on meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_distributions import HEADS, log_softmax, on_mesh
from test_logps import case, place

from jaxalign.lm_head.entropy import token_entropy


@pytest.mark.parametrize("shape", [(1, 1, 1), pytest.param((2, 2, 2), marks=pytest.mark.slow)], ids=str)
@HEADS
def test_entropy_equals_the_dense_one_in_value_and_gradient(shape, vocab_size, softcap, chunk):
    (hidden, unembed, _, scored), cotangent = case(vocab_size)

    def dense(hidden, unembed):
        log_p = log_softmax(hidden, unembed, vocab_size, softcap)
        entropy = jnp.where(scored, -jnp.sum(jnp.exp(log_p) * log_p, -1), 0.0)
        return jnp.sum(entropy * cotangent), entropy

    expected_gradients, expected = jax.grad(dense, argnums=(0, 1), has_aux=True)(hidden, unembed)
    with on_mesh(shape):
        *model, mask, weights = place(hidden, unembed, scored, cotangent)

        @jax.jit
        def run(*model):
            def total(*model):
                entropy = token_entropy(*model, mask, vocab_size=vocab_size, softcap=softcap, chunk_tokens=chunk)
                return jnp.sum(entropy * weights), entropy

            return jax.grad(total, argnums=(0, 1), has_aux=True)(*model)

        gradients, values = run(*model)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(jnp.abs(theirs).max()))

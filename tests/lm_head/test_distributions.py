"""The operators over the whole next-token distribution against dense ones, values and gradients, on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_logps import LENGTH, ROWS, VOCAB, case, place

from jaxalign import sharding
from jaxalign.lm_head import distributions

SHAPES = [(1, 1, 1), pytest.param((1, 1, 8), marks=pytest.mark.slow), (2, 2, 2)]
MESHES = pytest.mark.parametrize("shape", SHAPES, ids=str)
HEADS = pytest.mark.parametrize(("vocab_size", "softcap", "chunk"), [(64, None, 8), (61, None, 1024), (61, 3.0, 7)])


def on_mesh(shape):
    return jax.set_mesh(sharding.make_mesh(*shape, devices=jax.devices()[: np.prod(shape)]))


def log_softmax(hidden, unembed, vocab_size, softcap):
    """[R, T, V]: the distribution of every token given what is before it; of the first one there is none."""
    logits = jnp.einsum("rtd,vd->rtv", hidden, unembed, precision="highest")[:, :, :vocab_size]
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    return jnp.pad(jax.nn.log_softmax(logits)[:, :-1], ((0, 0), (1, 0), (0, 0)))


@MESHES
@HEADS
def test_greedy_token_and_collision_equal_dense_ones(shape, vocab_size, softcap, chunk):
    (hidden, unembed, _, scored), _ = case(vocab_size)
    log_p = log_softmax(hidden, unembed, vocab_size, softcap)
    with on_mesh(shape):
        placed = place(hidden, unembed, scored)
        options = {"vocab_size": vocab_size, "softcap": softcap, "chunk_tokens": chunk}
        greedy = jax.jit(lambda *x: distributions.token_argmax(*x, **options))(*placed)
        collision = jax.jit(lambda *x: distributions.token_collision(*x, **options))(*placed)
    np.testing.assert_array_equal(greedy, jnp.where(scored, log_p.argmax(-1), 0))
    np.testing.assert_allclose(collision, jnp.where(scored, jax.nn.logsumexp(2 * log_p, axis=-1), 0.0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 8)], ids=str)
def test_of_equal_logits_the_lowest_id_is_greedy(shape):
    hidden, unembed = jnp.ones((ROWS, LENGTH, 16)), jnp.zeros((VOCAB, 16)).at[jnp.array([21, 22, 40, 63])].set(1.0)
    with on_mesh(shape):
        placed = place(hidden, unembed, jnp.ones((ROWS, LENGTH), bool))
        greedy = jax.jit(lambda *x: distributions.token_argmax(*x, vocab_size=VOCAB, chunk_tokens=7))(*placed)
    np.testing.assert_array_equal(greedy[:, 1:], 21)


@MESHES
@HEADS
def test_kl_equals_dense_kl_in_value_and_in_the_gradient_of_the_policy(shape, vocab_size, softcap, chunk):
    (hidden, unembed, _, scored), cotangent = case(vocab_size)
    other = hidden[::-1] + 0.1, unembed[::-1]

    def dense(hidden, unembed):
        policy, reference = log_softmax(hidden, unembed, vocab_size, softcap), log_softmax(*other, vocab_size, softcap)
        kl = jnp.where(scored, jnp.sum(jnp.exp(policy) * (policy - reference), -1), 0.0)
        return jnp.sum(kl * cotangent), kl

    expected_gradients, expected = jax.grad(dense, argnums=(0, 1), has_aux=True)(hidden, unembed)
    with on_mesh(shape):
        *policy, mask, weights = place(hidden, unembed, scored, cotangent)
        reference = place(*other)

        @jax.jit
        def run(policy, reference):
            def total(policy, reference):
                kl = distributions.token_kl(policy, reference, mask, vocab_size=vocab_size, softcap=softcap, chunk_tokens=chunk)
                return jnp.sum(kl * weights), kl

            return jax.grad(total, argnums=(0, 1), has_aux=True)(policy, reference)

        (gradients, constant), values = run(policy, reference)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(jnp.abs(theirs).max()))
    assert not any(x.any() for x in constant)


@pytest.mark.slow
def test_kl_between_equal_models_is_zero_and_so_is_its_gradient():
    (hidden, unembed, _, scored), _ = case(61)
    with on_mesh((2, 2, 2)):
        hidden, head, mask = place(hidden, unembed, scored)
        kl = jax.jit(lambda p, r: distributions.token_kl(p, r, mask, vocab_size=61, chunk_tokens=8))
        np.testing.assert_allclose(kl((hidden, head), (hidden, head)), 0.0, atol=1e-6)
        gradient = jax.grad(lambda h: jnp.sum(distributions.token_kl((h, head), (hidden, head), mask, vocab_size=61)))(hidden)
        np.testing.assert_allclose(gradient, 0.0, atol=1e-6)

"""The chunked log-prob operator against a dense one, values and gradients, on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import sharding
from jaxalign.lm_head import chunks, logps

ROWS, LENGTH, WIDTH, VOCAB = 8, 24, 16, 64


def dense(hidden, unembed, tokens, scored, *, vocab_size, softcap=None):
    logits = jnp.einsum("rtd,vd->rtv", hidden, unembed, precision="highest")[:, :, :vocab_size]
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    before = jax.nn.log_softmax(logits, axis=-1)[:, :-1]
    picked = jnp.take_along_axis(before, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.where(scored, jnp.pad(picked, ((0, 0), (1, 0))), 0.0)


def case(vocab_size):
    keys = jax.random.split(jax.random.key(0), 5)
    hidden = jax.random.normal(keys[0], (ROWS, LENGTH, WIDTH))
    unembed = jax.random.normal(keys[1], (VOCAB, WIDTH))
    tokens = jax.random.randint(keys[2], (ROWS, LENGTH), 0, vocab_size)
    scored = jax.random.bernoulli(keys[3], 0.4, (ROWS, LENGTH)).at[:, 0].set(False).at[3].set(False)
    return (hidden, unembed, tokens, scored), jax.random.normal(keys[4], (ROWS, LENGTH))


def place(*arrays):
    """Arrays by rows on the mesh in scope; a [V, D] matrix as a head."""

    def axes(x):
        return ("vocab", "embed") if x.shape[0] == VOCAB else ("rows", *(None,) * (x.ndim - 1))

    return [jax.device_put(x, sharding.named(sharding.spec(*axes(x)))) for x in arrays]


SHAPES = [(1, 1, 1), *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in ((8, 1, 1), (1, 8, 1), (1, 1, 8))), (2, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("vocab_size", "softcap", "chunk"), [(64, None, 8), (61, None, 1024), (61, 3.0, 7)])
def test_chunked_equals_dense_in_values_and_gradients(monkeypatch, shape, vocab_size, softcap, chunk):
    monkeypatch.setattr(chunks, "REST_TOKENS", 5)  # whole chunks of 8 or 7 tokens, then some of 5
    arguments, cotangent = case(vocab_size)
    expected = dense(*arguments, vocab_size=vocab_size, softcap=softcap)
    expected_gradients = jax.grad(
        lambda h, w: jnp.sum(cotangent * dense(h, w, *arguments[2:], vocab_size=vocab_size, softcap=softcap)), argnums=(0, 1)
    )(*arguments[:2])
    with jax.set_mesh(sharding.make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])):
        *placed, weights = place(*arguments, cotangent)

        @jax.jit
        def run(hidden, unembed, tokens, scored):
            def total(hidden, unembed):
                values = logps.token_logps(hidden, unembed, tokens, scored, vocab_size=vocab_size, softcap=softcap, chunk_tokens=chunk)
                return jnp.sum(values * weights), values

            return jax.grad(total, argnums=(0, 1), has_aux=True)(hidden, unembed)

        gradients, values = run(*placed)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(jnp.abs(theirs).max()))


def test_nothing_scored_gives_zero_and_zero_gradient():
    (hidden, unembed, tokens, scored), _ = case(VOCAB)
    with jax.set_mesh(sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        hidden, unembed, tokens, unscored = place(hidden, unembed, tokens, jnp.zeros_like(scored))
        value, gradient = jax.value_and_grad(lambda h: jnp.sum(logps.token_logps(h, unembed, tokens, unscored, vocab_size=VOCAB)))(hidden)
    assert value == 0 and not gradient.any()


@pytest.mark.parametrize(
    ("platform", "vocab_size", "tokens"), [("cpu", 512, 1024), ("cpu", 32_000, 256), ("cpu", 262_144, 128), ("tpu", 32_000, 1024)]
)
def test_a_chunk_of_logits_stays_in_the_cache_of_a_cpu(platform, vocab_size, tokens):
    with sharding.shapes_only((1, 1, 1, 1, 1), platform):
        assert chunks.chunk_tokens(chunks.Options(vocab_size, None, chunks.CHUNK_TOKENS)) == tokens
    assert chunks.chunk_tokens(chunks.Options(vocab_size, None, 64)) == 64  # what a caller asks for is the most

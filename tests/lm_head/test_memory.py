"""Memory of the loss head at a vocabulary of 128,256, from the compiled program: nothing here is allocated."""

import functools

import jax
import jax.numpy as jnp
import pytest
import toys

from jaxalign import sharding
from jaxalign.lm_head import logps

VOCAB, WIDTH, LENGTH = 128_256, 1024, 2048
MIB = 2**20
HEAD_MIB = VOCAB * WIDTH * (2 + 4) / MIB  # the head in the compute dtype, and its float32 gradient while it is summed


def chunked(hidden, unembed, tokens, scored):
    return logps.token_logps(hidden, unembed, tokens, scored, vocab_size=VOCAB)


def dense(hidden, unembed, tokens, scored):
    logits = jnp.einsum("rtd,vd->rtv", hidden, unembed.astype(hidden.dtype), preferred_element_type=jnp.float32)
    hit = jnp.arange(VOCAB) == tokens[:, :, None]
    return jnp.where(scored, jnp.sum(jnp.where(hit, jax.nn.log_softmax(logits), 0.0), -1), 0.0)


@functools.cache
def temporary_mib(head, tokens):
    """Temporary memory of values and gradients of the head over this many tokens, all of them scored."""
    with jax.set_mesh(toys.mesh()):

        def shaped(shape, dtype, *axes):
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.named(sharding.spec(*axes)))

        rows = tokens // LENGTH
        arguments = (
            shaped((rows, LENGTH, WIDTH), jnp.bfloat16, "rows", None, None),
            shaped((VOCAB, WIDTH), jnp.float32, "vocab", "embed"),
            shaped((rows, LENGTH), jnp.int32, "rows", None),
            shaped((rows, LENGTH), jnp.bool_, "rows", None),
        )
        gradient = jax.value_and_grad(lambda h, w, t, m: jnp.sum(head(h, w, t, m)), argnums=(0, 1))
        return jax.jit(gradient).lower(*arguments).compile().memory_analysis().temp_size_in_bytes / MIB


def test_the_head_needs_at_most_0_03_mib_a_token():
    assert (temporary_mib(chunked, 32_768) - HEAD_MIB) / 32_768 <= 0.03


def test_memory_of_the_head_grows_with_the_width_and_not_with_the_vocabulary():
    slope = (temporary_mib(chunked, 65_536) - temporary_mib(chunked, 32_768)) / 32_768
    assert slope <= 4 * 4 * WIDTH / MIB  # at most four float32 vectors of the width a token; a vocabulary of logits is 0.49 MiB


def test_a_dense_head_needs_far_more():
    slope = (temporary_mib(dense, 8_192) - temporary_mib(dense, 4_096)) / 4_096
    assert slope >= 2 * 4 * VOCAB / MIB == pytest.approx(0.98, rel=0.01)

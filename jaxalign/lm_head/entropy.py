"""The entropy of the next-token distribution at every scored token, without `[R, T, V]`, with a gradient.

Chunked and split over the vocabulary like `logps`, see `chunks`; the logits are computed again in the backward pass.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxalign.lm_head import chunks as heads
from jaxalign.lm_head.chunks import CHUNK_TOKENS, Options
from jaxalign.sharding import spec


def token_entropy(hidden, unembed, scored, *, vocab_size: int, softcap: float | None = None, chunk_tokens: int = CHUNK_TOKENS):
    """-sum_v p_v log p_v in nats at every scored token: float32[R, T], 0 where not scored. Differentiable in `hidden` and `unembed`.

    Args:
      hidden, unembed, scored, vocab_size, softcap, chunk_tokens: as in `distributions`. A mesh must be in scope.
    """
    return heads.by_token(_operator(hidden, unembed, heads.by_state(scored), Options(vocab_size, softcap, chunk_tokens)))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _operator(hidden, unembed, scored, options):
    return _forward(hidden, unembed, scored, options)[0]


def _forward(hidden, unembed, scored, options):
    h, w, r = spec("rows", "tokens", None), spec("vocab", "embed"), spec("rows", "tokens")
    local = jax.shard_map(partial(_forward_local, options=options), in_specs=(h, w, r), out_specs=(r, r), check_vma=False)
    entropy, log_normalizer = local(hidden, unembed, scored)
    return entropy, (hidden, unembed, scored, entropy, log_normalizer)


def _backward(options, saved, gradient):
    h, w, r = spec("rows", "tokens", None), spec("vocab", "embed"), spec("rows", "tokens")
    local = jax.shard_map(partial(_backward_local, options=options), in_specs=(h, w, r, r, r, r), out_specs=(h, w), check_vma=False)
    hidden_gradient, unembed_gradient = local(*saved, gradient)
    return hidden_gradient, unembed_gradient.astype(saved[1].dtype), None


_operator.defvjp(_forward, _backward)


def _forward_local(hidden, unembed, scored, *, options):
    head = heads.gather_head(unembed, hidden.dtype)

    def body(index, carry):
        logits, columns = heads.logits(heads.states(hidden, index), head, options)
        mean = jnp.sum(jnp.where(columns < options.vocab_size, jax.nn.softmax(logits, axis=1) * logits, 0.0), axis=1)
        values = jax.nn.logsumexp(logits, axis=1), mean
        return tuple(x.at[index].set(value, mode="drop") for x, value in zip(carry, values, strict=True))

    # H = lse(z) - sum_v softmax(z)_v z_v with logits z; each slice of the vocabulary brings its own sum, weighed by the slice's mass
    zeros = jnp.zeros(scored.size, jnp.float32)
    log_sum_exp, mean = heads.over_chunks(scored, options, body, (zeros, zeros))
    total = heads.sum_over_shards(log_sum_exp)
    entropy = total - jax.lax.psum(jnp.exp(log_sum_exp - total) * mean, "tensor")
    return jnp.where(scored, entropy.reshape(scored.shape), 0.0), total.reshape(scored.shape)


def _backward_local(hidden, unembed, scored, entropy, log_normalizer, gradient, *, options):
    def logit_gradient(index, logits, columns):
        log_p = logits - heads.at(log_normalizer, index)[:, None]
        # d H / d logits = -p (log p + H)
        d = -jnp.exp(log_p) * (log_p + heads.at(entropy, index)[:, None])
        return heads.at(gradient, index)[:, None] * jnp.where(columns < options.vocab_size, d, 0.0)

    return heads.backward(hidden, unembed, scored, options, logit_gradient)

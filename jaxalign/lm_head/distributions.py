"""What is read from the whole next-token distribution at every scored token, without `[R, T, V]`: greedy token, KL, collision probability.

The operators are chunked and split over the vocabulary like `logps`, see `chunks`. In all of them hidden is [R, T, D] after the final
norm, hidden[r, t - 1] gives the distribution of token t, unembed is float32[V, D], scored is bool[R, T] (False at t = 0 and at the
first token of every sequence), and rows of unembed from vocab_size on are padding. A mesh must be in scope.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxalign.lm_head import chunks as heads
from jaxalign.lm_head.chunks import CHUNK_TOKENS, Options
from jaxalign.sharding import spec


def token_argmax(hidden, unembed, scored, *, vocab_size: int, softcap: float | None = None, chunk_tokens: int = CHUNK_TOKENS):
    """The likeliest token at every scored place: int32[R, T], 0 where not scored; of equals the one with the lowest id. No gradient."""
    local = partial(_argmax_local, options=Options(vocab_size, softcap, chunk_tokens))
    return _forward_only(local, jax.lax.stop_gradient((hidden, unembed)), scored)


def token_collision(hidden, unembed, scored, *, vocab_size: int, softcap: float | None = None, chunk_tokens: int = CHUNK_TOKENS):
    """log sum_v p_v^2, the log-probability that two draws are the same token: float32[R, T], 0 where not scored. No gradient."""
    local = partial(_collision_local, options=Options(vocab_size, softcap, chunk_tokens))
    return _forward_only(local, jax.lax.stop_gradient((hidden, unembed)), scored)


def token_kl(policy, reference, scored, *, vocab_size: int, softcap: float | None = None, chunk_tokens: int = CHUNK_TOKENS):
    """KL(policy || reference) of the next-token distributions, in nats, at every scored token: float32[R, T], 0 where not scored.

    Exact over the vocabulary, on the text given (not on samples of the policy). Differentiable in the policy; the reference is a constant.

    Args:
      policy, reference: (hidden [R, T, D], unembed [V, D]) of the two models, which share a vocabulary.
      scored, vocab_size, softcap, chunk_tokens: as above.
    """
    options = Options(vocab_size, softcap, chunk_tokens)
    return _kl(tuple(policy), jax.lax.stop_gradient(tuple(reference)), scored, options)


def _specs():
    return (spec("rows", None, None), spec("vocab", "embed")), spec("rows", None)


def _forward_only(local, model, scored):
    side, r = _specs()
    return jax.shard_map(local, in_specs=(side, r), out_specs=r, check_vma=False)(model, scored)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _kl(policy, reference, scored, options):
    return _kl_forward(policy, reference, scored, options)[0]


def _kl_forward(policy, reference, scored, options):
    side, r = _specs()
    local = jax.shard_map(partial(_kl_local, options=options), in_specs=(side, side, r), out_specs=(r, r, r), check_vma=False)
    kl, *normalizers = local(policy, reference, scored)
    return kl, (policy, reference, scored, kl, *normalizers)


def _kl_backward(options, saved, gradient):
    side, r = _specs()
    local = partial(_kl_backward_local, options=options)
    local = jax.shard_map(local, in_specs=(side, side, r, r, r, r, r), out_specs=side, check_vma=False)
    hidden_gradient, unembed_gradient = local(*saved, gradient)
    return (hidden_gradient, unembed_gradient.astype(saved[0][1].dtype)), None, None


_kl.defvjp(_kl_forward, _kl_backward)


# What follows runs inside shard_map: R is this device's rows, V its slice of the vocabulary.


def _argmax_local(model, scored, *, options):
    hidden, head = model[0], heads.gather_head(model[1], model[0].dtype)

    def body(index, carry):
        largest, token = carry
        logits, columns = heads.logits(heads.before(hidden, index), head, options)
        return largest.at[index].set(logits.max(1), mode="drop"), token.at[index].set(columns[jnp.argmax(logits, axis=1)], mode="drop")

    start = jnp.full(scored.size, -jnp.inf, jnp.float32), jnp.zeros(scored.size, jnp.int32)
    largest, token = heads.over_chunks(scored, options, body, start)
    candidates = jnp.where(largest == jax.lax.pmax(largest, "tensor"), token, options.vocab_size)
    return jnp.where(scored, jax.lax.pmin(candidates, "tensor").reshape(scored.shape), 0)


def _collision_local(model, scored, *, options):
    hidden, head = model[0], heads.gather_head(model[1], model[0].dtype)

    def body(index, carry):
        logits, _ = heads.logits(heads.before(hidden, index), head, options)
        sums = jax.nn.logsumexp(logits, axis=1), jax.nn.logsumexp(2 * logits, axis=1)
        return tuple(x.at[index].set(value, mode="drop") for x, value in zip(carry, sums, strict=True))

    zeros = jnp.zeros(scored.size, jnp.float32)
    once, twice = (heads.sum_over_shards(x) for x in heads.over_chunks(scored, options, body, (zeros, zeros)))
    # log sum_v p_v^2 = lse(2 z) - 2 lse(z) with logits z
    return jnp.where(scored, (twice - 2 * once).reshape(scored.shape), 0.0)


def _kl_local(policy, reference, scored, *, options):
    (hidden_p, head_p), (hidden_q, head_q) = ((hidden, heads.gather_head(unembed, hidden.dtype)) for hidden, unembed in (policy, reference))

    def body(index, carry):
        p, columns = heads.logits(heads.before(hidden_p, index), head_p, options)
        q, _ = heads.logits(heads.before(hidden_q, index), head_q, options)
        gap = jnp.sum(jnp.where(columns < options.vocab_size, jax.nn.softmax(p, axis=1) * (p - q), 0.0), axis=1)
        values = jax.nn.logsumexp(p, axis=1), jax.nn.logsumexp(q, axis=1), gap
        return tuple(x.at[index].set(value, mode="drop") for x, value in zip(carry, values, strict=True))

    # KL(p || q) = sum_v softmax(p)_v (p_v - q_v) - lse(p) + lse(q) with logits p, q; each slice of the vocabulary brings its own sum,
    # weighed by the mass that the slice has.
    zeros = jnp.zeros(scored.size, jnp.float32)
    lse_p, lse_q, gap = heads.over_chunks(scored, options, body, (zeros, zeros, zeros))
    total_p, total_q = heads.sum_over_shards(lse_p), heads.sum_over_shards(lse_q)
    kl = jax.lax.psum(jnp.exp(lse_p - total_p) * gap, "tensor") - total_p + total_q
    kl, total_p, total_q = (x.reshape(scored.shape) for x in (kl, total_p, total_q))
    return jnp.where(scored, kl, 0.0), total_p, total_q


def _kl_backward_local(policy, reference, scored, kl, total_p, total_q, gradient, *, options):
    hidden_q, head_q = reference[0], heads.gather_head(reference[1], reference[0].dtype)

    def logit_gradient(index, logits, columns):
        log_p = logits - heads.at(total_p, index)[:, None]
        log_q = heads.logits(heads.before(hidden_q, index), head_q, options)[0] - heads.at(total_q, index)[:, None]
        # d KL / d logits = p (log p - log q - KL)
        d = jnp.exp(log_p) * (log_p - log_q - heads.at(kl, index)[:, None])
        return heads.at(gradient, index)[:, None] * jnp.where(columns < options.vocab_size, d, 0.0)

    return heads.backward(*policy, scored, options, logit_gradient)

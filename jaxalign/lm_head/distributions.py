"""What is read from the whole next-token distribution at every scored token, without `[R, T, V]`: greedy token, KL, collision probability.

The operators are chunked and split over the vocabulary like `logps`, see `chunks`. In all of them hidden is [R, T, D] after the final
norm, hidden[r, t - 1] gives the distribution of token t, unembed is float32[V, D], scored is bool[R, T] (False at t = 0 and at the
first token of every sequence), and rows of unembed from vocab_size on are padding. A mesh must be in scope.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxalign.lm_head import chunks as heads
from jaxalign.lm_head import divergences
from jaxalign.lm_head.chunks import CHUNK_TOKENS, Options
from jaxalign.lm_head.divergences import Kind
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
    return divergences.token_divergence(
        policy, reference, scored, Kind("reverse"), vocab_size=vocab_size, softcaps=(softcap, softcap), chunk_tokens=chunk_tokens
    )


def _specs():
    return (spec("rows", "tokens", None), spec("vocab", "embed")), spec("rows", "tokens")


def _forward_only(local, model, scored):
    side, r = _specs()
    return heads.by_token(jax.shard_map(local, in_specs=(side, r), out_specs=r, check_vma=False)(model, heads.by_state(scored)))


# What follows runs inside shard_map: R and T are this device's rows and tokens, V its slice of the vocabulary.


def _argmax_local(model, scored, *, options):
    hidden, head = model[0], heads.gather_head(model[1], model[0].dtype)

    def body(index, carry):
        largest, token = carry
        logits, columns = heads.logits(heads.states(hidden, index), head, options)
        return largest.at[index].set(logits.max(1), mode="drop"), token.at[index].set(columns[jnp.argmax(logits, axis=1)], mode="drop")

    start = jnp.full(scored.size, -jnp.inf, jnp.float32), jnp.zeros(scored.size, jnp.int32)
    largest, token = heads.over_chunks(scored, options, body, start)
    candidates = jnp.where(largest == jax.lax.pmax(largest, "tensor"), token, options.vocab_size)
    return jnp.where(scored, jax.lax.pmin(candidates, "tensor").reshape(scored.shape), 0)


def _collision_local(model, scored, *, options):
    hidden, head = model[0], heads.gather_head(model[1], model[0].dtype)

    def body(index, carry):
        logits, _ = heads.logits(heads.states(hidden, index), head, options)
        sums = jax.nn.logsumexp(logits, axis=1), jax.nn.logsumexp(2 * logits, axis=1)
        return tuple(x.at[index].set(value, mode="drop") for x, value in zip(carry, sums, strict=True))

    zeros = jnp.zeros(scored.size, jnp.float32)
    once, twice = (heads.sum_over_shards(x) for x in heads.over_chunks(scored, options, body, (zeros, zeros)))
    # log sum_v p_v^2 = lse(2 z) - 2 lse(z) with logits z
    return jnp.where(scored, (twice - 2 * once).reshape(scored.shape), 0.0)

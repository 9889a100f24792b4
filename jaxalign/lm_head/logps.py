"""The one linear + log-prob operator: from hidden states to the log-probability of every scored token, without `[R, T, V]`.

Used by policy and reference alike, see `chunks`. Only the log-sum-exp is saved; the logits are computed again in the backward pass.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxalign.lm_head import chunks as heads
from jaxalign.lm_head.chunks import CHUNK_TOKENS, Options
from jaxalign.sharding import spec


def token_logps(hidden, unembed, tokens, scored, *, vocab_size: int, softcap: float | None = None, chunk_tokens: int = CHUNK_TOKENS):
    """Log-probability of every scored token given the hidden state before it: float32[R, T], 0 where not scored.

    Differentiable in `hidden` and `unembed`. Matmuls run in hidden's dtype with float32 results; log-softmax and everything after
    it in float32. A mesh must be in scope.

    Args:
      hidden: [R, T, D], after the final norm; hidden[r, t - 1] predicts tokens[r, t].
      unembed: float32[V, D] with V >= vocab_size; further rows are padding and get probability 0.
      tokens: int32[R, T].
      scored: bool[R, T]; must be False at t = 0 and wherever the token before belongs to another sequence.
      vocab_size: number of real tokens.
      softcap: logits become softcap * tanh(logits / softcap) (Gemma 2), None for plain logits.
      chunk_tokens: the most tokens that go through the head at a time; on CPU fewer, see `chunks.chunk_tokens`.
    """
    options = Options(vocab_size, softcap, chunk_tokens)
    return heads.by_token(_operator(hidden, unembed, heads.by_state(tokens), heads.by_state(scored), options))


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _operator(hidden, unembed, tokens, scored, options):
    return _forward(hidden, unembed, tokens, scored, options)[0]


def _forward(hidden, unembed, tokens, scored, options):
    h, w, r = spec("rows", "tokens", None), spec("vocab", "embed"), spec("rows", "tokens")
    local = jax.shard_map(partial(_forward_local, options=options), in_specs=(h, w, r, r), out_specs=(r, r), check_vma=False)
    logps, log_normalizer = local(hidden, unembed, tokens, scored)
    return logps, (hidden, unembed, tokens, scored, log_normalizer)


def _backward(options, saved, gradient):
    h, w, r = spec("rows", "tokens", None), spec("vocab", "embed"), spec("rows", "tokens")
    local = jax.shard_map(partial(_backward_local, options=options), in_specs=(h, w, r, r, r, r), out_specs=(h, w), check_vma=False)
    hidden_gradient, unembed_gradient = local(*saved, gradient)
    return hidden_gradient, unembed_gradient.astype(saved[1].dtype), None, None


_operator.defvjp(_forward, _backward)


def _forward_local(hidden, unembed, tokens, scored, *, options):
    head = heads.gather_head(unembed, hidden.dtype)

    def body(index, carry):
        log_sum_exp, target = carry
        logits, columns = heads.logits(heads.states(hidden, index), head, options)
        log_sum_exp = log_sum_exp.at[index].set(jax.nn.logsumexp(logits, axis=1), mode="drop")
        return log_sum_exp, target.at[index].set(heads.picked(logits, columns, heads.at(tokens, index)), mode="drop")

    zeros = jnp.zeros(tokens.size, jnp.float32)
    log_sum_exp, target = heads.over_chunks(scored, options, body, (zeros, zeros))
    log_normalizer = heads.sum_over_shards(log_sum_exp).reshape(tokens.shape)
    target = jax.lax.psum(target, "tensor").reshape(tokens.shape)
    return jnp.where(scored, target - log_normalizer, 0.0), log_normalizer


def _backward_local(hidden, unembed, tokens, scored, log_normalizer, gradient, *, options):
    def logit_gradient(index, logits, columns):
        # d log p / d logits = onehot - softmax
        hit = columns == heads.at(tokens, index)[:, None]
        return heads.at(gradient, index)[:, None] * (hit - jnp.exp(logits - heads.at(log_normalizer, index)[:, None]))

    return heads.backward(hidden, unembed, scored, options, logit_gradient)

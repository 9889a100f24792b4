"""The one linear + log-prob operator: from hidden states to the log-probability of every scored token, without `[R, T, V]`.

Used by policy and reference alike. Unscored positions (prompts, padding) are compacted away before the head matmul; the rest goes through
the head in chunks of tokens; the head is gathered once, outside the chunk loop; only the log-sum-exp is saved and the logits are recomputed
in the backward pass. Under tensor parallelism every device keeps its own slice of the vocabulary, and the slices meet once, after the loop,
so the loop holds no collective and each device runs just as many chunks as its own rows need.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign.sharding import spec

CHUNK_TOKENS = 1024  # large enough that the matmul is efficient, small enough that [chunk, V] stays a fraction of a GiB


class _Options(NamedTuple):
    vocab_size: int
    softcap: float | None
    chunk: int


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
      chunk_tokens: tokens that go through the head at a time.
    """
    rows, length, _ = hidden.shape
    return _operator(hidden, unembed, tokens, scored, _Options(vocab_size, softcap, min(chunk_tokens, rows * length)))


def token_kl(policy, reference, scored, *, vocab_size: int, softcap: float | None = None, chunk_tokens: int = CHUNK_TOKENS):
    """KL(policy || reference) of the next-token distributions, in nats, at every scored token: float32[R, T], 0 where not scored.

    Exact over the vocabulary, on the text given (not on samples of the policy). Forward only: it has no gradient.

    Args:
      policy, reference: (hidden [R, T, D], unembed [V, D]) of the two models, which share a vocabulary.
      scored, vocab_size, softcap, chunk_tokens: as in `token_logps`.
    """
    options = _Options(vocab_size, softcap, min(chunk_tokens, scored.size))
    local = partial(_kl_local, options=options)
    h, w, r = spec("rows", None, None), spec("vocab", "embed"), spec("rows", None)
    return jax.shard_map(local, in_specs=((h, w), (h, w), r), out_specs=r, check_vma=False)(
        jax.lax.stop_gradient(policy), jax.lax.stop_gradient(reference), scored
    )


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _operator(hidden, unembed, tokens, scored, options):
    return _forward(hidden, unembed, tokens, scored, options)[0]


def _forward(hidden, unembed, tokens, scored, options):
    h, w, r = spec("rows", None, None), spec("vocab", "embed"), spec("rows", None)
    local = jax.shard_map(partial(_forward_local, options=options), in_specs=(h, w, r, r), out_specs=(r, r), check_vma=False)
    logps, log_normalizer = local(hidden, unembed, tokens, scored)
    return logps, (hidden, unembed, tokens, scored, log_normalizer)


def _backward(options, saved, gradient):
    h, w, r = spec("rows", None, None), spec("vocab", "embed"), spec("rows", None)
    local = jax.shard_map(partial(_backward_local, options=options), in_specs=(h, w, r, r, r, r), out_specs=(h, w), check_vma=False)
    hidden_gradient, unembed_gradient = local(*saved, gradient)
    return hidden_gradient, unembed_gradient.astype(saved[1].dtype), None, None


_operator.defvjp(_forward, _backward)


# What follows runs inside shard_map: R is this device's rows, V its slice of the vocabulary.


def _chunks(scored, chunk):
    """(order, count): flat indices of the tokens, scored ones first, padded to whole chunks by an index out of range; chunks to run."""
    flat = scored.reshape(-1)
    order = jnp.argsort(~flat, stable=True)
    order = jnp.pad(order, (0, -flat.size % chunk), constant_values=flat.size)
    return order, (flat.sum() + chunk - 1) // chunk


def _logits(x, head, options):
    """(logits float32[chunk, V], columns int32[V]); columns count over the whole vocabulary; padded ones get -inf."""
    logits = jnp.einsum("cd,vd->cv", x, head, preferred_element_type=jnp.float32)
    if options.softcap is not None:
        logits = options.softcap * jnp.tanh(logits / options.softcap)
    columns = jax.lax.axis_index("tensor") * head.shape[0] + jnp.arange(head.shape[0])
    return jnp.where(columns < options.vocab_size, logits, -jnp.inf), columns


def _gather_head(unembed, dtype):
    return jax.lax.all_gather(unembed.astype(dtype), "fsdp", axis=1, tiled=True)


def _sum_over_vocabulary_shards(log_sum_exp):
    largest = jax.lax.pmax(log_sum_exp, "tensor")
    return largest + jnp.log(jax.lax.psum(jnp.exp(log_sum_exp - largest), "tensor"))


def _forward_local(hidden, unembed, tokens, scored, *, options):
    head = _gather_head(unembed, hidden.dtype)
    flat_hidden, flat_tokens = hidden.reshape(-1, hidden.shape[-1]), tokens.reshape(-1)
    order, count = _chunks(scored, options.chunk)

    def body(i, carry):
        log_sum_exp, target = carry
        index = jax.lax.dynamic_slice(order, (i * options.chunk,), (options.chunk,))
        logits, columns = _logits(flat_hidden[jnp.clip(index - 1, 0, flat_tokens.size - 1)], head, options)
        hit = columns == flat_tokens[jnp.clip(index, 0, flat_tokens.size - 1), None]
        log_sum_exp = log_sum_exp.at[index].set(jax.nn.logsumexp(logits, axis=1), mode="drop")
        return log_sum_exp, target.at[index].set(jnp.sum(jnp.where(hit, logits, 0.0), axis=1), mode="drop")

    zeros = jnp.zeros(flat_tokens.shape, jnp.float32)
    log_sum_exp, target = jax.lax.fori_loop(0, count, body, (zeros, zeros))
    log_normalizer = _sum_over_vocabulary_shards(log_sum_exp).reshape(tokens.shape)
    target = jax.lax.psum(target, "tensor").reshape(tokens.shape)
    return jnp.where(scored, target - log_normalizer, 0.0), log_normalizer


def _backward_local(hidden, unembed, tokens, scored, log_normalizer, gradient, *, options):
    head = _gather_head(unembed, hidden.dtype)
    flat_hidden, flat_tokens = hidden.reshape(-1, hidden.shape[-1]), tokens.reshape(-1)
    flat_normalizer, flat_gradient = log_normalizer.reshape(-1), jnp.where(scored, gradient, 0.0).reshape(-1)
    order, count = _chunks(scored, options.chunk)

    def body(i, carry):
        hidden_gradient, head_gradient = carry
        index = jax.lax.dynamic_slice(order, (i * options.chunk,), (options.chunk,))
        inside = jnp.clip(index, 0, flat_tokens.size - 1)
        source = jnp.where(index < flat_tokens.size, index - 1, flat_tokens.size)
        x = flat_hidden[jnp.clip(index - 1, 0, flat_tokens.size - 1)]
        logits, columns = _logits(x, head, options)
        # d log p / d logits = onehot - softmax
        hit = columns == flat_tokens[inside, None]
        weight = jnp.where(index < flat_tokens.size, flat_gradient[inside], 0.0)[:, None]
        d = weight * (hit - jnp.exp(logits - flat_normalizer[inside, None]))
        if options.softcap is not None:
            d = d * jnp.where(columns < options.vocab_size, 1 - (logits / options.softcap) ** 2, 0.0)
        d = d.astype(hidden.dtype)
        dx = jnp.einsum("cv,vd->cd", d, head, preferred_element_type=jnp.float32)
        hidden_gradient = hidden_gradient.at[source].add(dx.astype(hidden_gradient.dtype), mode="drop")
        return hidden_gradient, head_gradient + jnp.einsum("cv,cd->vd", d, x, preferred_element_type=jnp.float32)

    # Each row of hidden is written by one chunk only; slices of the vocabulary are summed in float32.
    split = jax.lax.axis_size("tensor") > 1
    start = jnp.zeros(flat_hidden.shape, jnp.float32 if split else hidden.dtype), jnp.zeros(head.shape, jnp.float32)
    hidden_gradient, head_gradient = jax.lax.fori_loop(0, count, body, start)
    hidden_gradient = jax.lax.psum(hidden_gradient, "tensor").astype(hidden.dtype).reshape(hidden.shape)
    head_gradient = jax.lax.psum_scatter(head_gradient, "fsdp", scatter_dimension=1, tiled=True)
    return hidden_gradient, jax.lax.psum(head_gradient, "data")


def _kl_local(policy, reference, scored, *, options):
    heads = [_gather_head(unembed, hidden.dtype) for hidden, unembed in (policy, reference)]
    flats = [hidden.reshape(-1, hidden.shape[-1]) for hidden, _ in (policy, reference)]
    order, count = _chunks(scored, options.chunk)
    size = scored.size

    def body(i, carry):
        index = jax.lax.dynamic_slice(order, (i * options.chunk,), (options.chunk,))
        (p, columns), (q, _) = (
            _logits(flat[jnp.clip(index - 1, 0, size - 1)], head, options) for flat, head in zip(flats, heads, strict=True)
        )
        gap = jnp.sum(jnp.where(columns < options.vocab_size, jax.nn.softmax(p, axis=1) * (p - q), 0.0), axis=1)
        values = jax.nn.logsumexp(p, axis=1), jax.nn.logsumexp(q, axis=1), gap
        return tuple(x.at[index].set(value, mode="drop") for x, value in zip(carry, values, strict=True))

    # KL(p || q) = sum_v softmax(p)_v (p_v - q_v) - lse(p) + lse(q) with logits p, q; each slice of the vocabulary brings its own sum,
    # weighed by the mass that the slice has.
    zeros = jnp.zeros(size, jnp.float32)
    lse_p, lse_q, gap = jax.lax.fori_loop(0, count, body, (zeros, zeros, zeros))
    total_p, total_q = _sum_over_vocabulary_shards(lse_p), _sum_over_vocabulary_shards(lse_q)
    kl = jax.lax.psum(jnp.exp(lse_p - total_p) * gap, "tensor") - total_p + total_q
    return jnp.where(scored, kl.reshape(scored.shape), 0.0)

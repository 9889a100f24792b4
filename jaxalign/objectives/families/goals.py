"""States of a response, drawn at random, and how near those of a better answer are to each other: what `goal_reward` is made of.

Contrastive goal-conditioned reward models, arXiv 2407.13887; conventions as in its published code. S states are drawn per response; D is
the width of a hidden state.
"""

import jax
import jax.numpy as jnp

from jaxalign.types import Array, Batch

SMALLEST_NORM = 1e-8
PAIRS, GOALS, REDUCTIONS = ("all", "diagonal", "causal"), ("single", "average"), ("log_of_mean", "mean_of_log")


def ranks(batch: Batch) -> Array:
    """The place of every scored token among those of its response, counted from the end: int32[R, T]; 1 = the last, 0 = not scored."""
    inside = _inside(batch)
    return jnp.where(inside, jnp.cumsum(inside[:, ::-1], axis=1)[:, ::-1], 0).sum(2)


def states(hidden: Array, batch: Batch, response: int, offsets: Array) -> Array:
    """Hidden states of one response of every group, float32[N, S, D]; zeros where an offset is 0.

    Args:
      hidden: [R, T, D].
      response: its number, < K.
      offsets: int32[N, S]; places counted from the response's end, as in `ranks`.
    """
    rows, (groups, drawn) = len(batch.slots), offsets.shape
    places = offsets.reshape(rows, groups // rows * drawn, out_sharding=jax.typeof(batch.slots).sharding)
    slots = batch.valid.shape[1] * jnp.arange(groups // rows).repeat(drawn) + response
    picked = (batch.slots[:, None] == slots[:, None]) & (ranks(batch)[:, None] == places[:, :, None])
    exact = jax.lax.Precision.HIGHEST  # a product with zeros and a one copies the states, so it must not round them
    found = jnp.einsum("rst,rtd->rsd", picked.astype(jnp.float32), hidden.astype(jnp.float32), precision=exact)
    return found.reshape(groups, drawn, hidden.shape[2], out_sharding=jax.typeof(hidden).sharding)


def contents(batch: Batch) -> Array:
    """A number made of the tokens of each response and of their positions, uint32[N, K]: the same however the rows are packed."""
    by_token = _mixed(batch.tokens.astype(jnp.uint32) + _mixed(batch.positions.astype(jnp.uint32)))
    total = jnp.where(_inside(batch), by_token[:, :, None], jnp.uint32(0)).sum(1, dtype=jnp.uint32)
    rows, (groups, responses) = len(batch.slots), batch.valid.shape
    by_row = total.reshape(rows, groups // rows, responses)
    return by_row.reshape(groups, responses, out_sharding=jax.typeof(batch.valid).sharding)


def uniform(contents: Array, count: int, *, seed: int, step: Array | int) -> Array:
    """Numbers in [0, 1) that depend on contents uint32[N], seed and step alone: float32[N, count]."""
    start = contents ^ _mixed(jnp.asarray(step, jnp.uint32) ^ _mixed(jnp.uint32(seed)))
    golden = jnp.uint32(0x9E3779B9)  # 2^32 over the golden ratio, which spreads neighbours
    bits = _mixed(_mixed(start)[:, None] + golden * jnp.arange(1, count + 1, dtype=jnp.uint32))
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def offsets(uniform: Array, lengths: Array, percentile: float) -> Array:
    """Places in responses of these lengths, counted from the end: int32[N, S], 1 to the length, 0 for a response without tokens.

    Args:
      uniform: float32[N, S]; the larger, the nearer to the end.
      lengths: float32[N]; scored tokens, the end token too. The published code leaves it out, and so never draws the first token.
      percentile: p; places lie in the first 1 - p of the response.
    """
    # 1 + floor(n (1 - (1 - p) u))
    return jnp.minimum(jnp.floor((1 - (1 - percentile) * uniform) * lengths[:, None] + 1), lengths[:, None]).astype(jnp.int32)


def cosines(left: Array, right: Array) -> Array:
    """The cosine of every left [N, S, D] with every right [N, S', D]: float32[N, S, S']; 0 for a state of zeros."""
    left, right = (x / jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), SMALLEST_NORM**2)) for x in (left, right))
    return jnp.einsum("nsd,ngd->nsg", left, right, precision=jax.lax.Precision.HIGHEST)


def contrast(positive: Array, negative: Array, kept: tuple[Array, Array], *, reduction: str) -> Array:
    """The contrastive loss of every group, float32[N], from 2 log(1 + 1/e) = 0.627 to 2 log(1 + e) = 2.627; 2 log 2 at cosines of 0.

    Args:
      positive, negative: cosines float32[N, S, S'] of states of the better answer, and of it and the worse.
      kept: which of them count, bool of shapes that broadcast to theirs.
      reduction: "log_of_mean": -log mean sigmoid(positive) - log(1 - mean sigmoid(negative)), as published, but with the mean over one pair
        of answers where the published code takes that of its microbatch; "mean_of_log": the mean of the logarithms, which is greater.
    """
    masks = [jnp.broadcast_to(mask, x.shape) for mask, x in zip(kept, (positive, negative), strict=True)]

    def mean(x, mask):
        return jnp.where(mask, x, 0.0).sum((1, 2)) / jnp.maximum(mask.sum((1, 2)), 1)

    if reduction == "mean_of_log":
        return mean(jax.nn.softplus(-positive), masks[0]) + mean(jax.nn.softplus(negative), masks[1])
    tiny = jnp.finfo(jnp.float32).tiny  # of a group without states, whose weight is 0
    near, far = mean(jax.nn.sigmoid(positive), masks[0]), mean(jax.nn.sigmoid(-negative), masks[1])
    return -jnp.log(jnp.maximum(near, tiny)) - jnp.log(jnp.maximum(far, tiny))


def _inside(batch: Batch) -> Array:
    """Whether token t of row r is scored in slot g * K + k: bool[R, T, G * K]."""
    return batch.slots[:, :, None] == jnp.arange(batch.valid.size // batch.slots.shape[0])


def _mixed(x: Array) -> Array:
    """The finaliser of MurmurHash3 (A. Appleby, public domain): every bit of uint32 depends on all others."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)

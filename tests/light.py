"""A model of a few matrices that obeys the attention rule: it compiles in a fraction of the decoder's time. Not a test itself.

With it every objective file goes through the real train step on every layout and mesh; the decoder keeps the same promises in test_contract
for the objectives that differ in what they read of it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import sharding
from jaxalign.models import heads
from jaxalign.training import forward
from jaxalign.types import Features, Outputs

VOCAB, WIDTH, LONGEST = 64, 16, 64
AXES = {"tokens": ("vocab", "embed"), "positions": (None, "embed"), "head": ("vocab", "embed"), "value_head": {"query": ("embed",)}}
AXES["reward_head"], AXES["critic"] = {"score": ("embed",)}, {"score": ("embed",)}
SHAPES = {"tokens": (VOCAB, WIDTH), "positions": (LONGEST, WIDTH), "head": (VOCAB, WIDTH), "value_head": {"query": (WIDTH,)}}
SHAPES["reward_head"], SHAPES["critic"] = {"score": (WIDTH,)}, {"score": (WIDTH,)}


def is_axes(x):
    return isinstance(x, tuple)


def params(seed: int) -> dict:
    """Random parameters on the mesh in scope; those of the reward head and the critic do not move the others'."""
    draw = {name: np.random.default_rng([seed, 1 + n]) for n, name in enumerate(("reward_head", "critic"))}
    others = np.random.default_rng(seed)

    def place(path, shape, axes):
        values = (0.5 * draw.get(path[0].key, others).standard_normal(shape)).astype(np.float32)
        return jax.device_put(values, sharding.named(sharding.spec(*axes)))

    return jax.tree_util.tree_map_with_path(place, SHAPES, AXES, is_leaf=is_axes)


def next_token(params, batch, step) -> Outputs:
    return _outputs(params, batch, step, _embed(params, batch.tokens))


def two_pass(params, batch, step) -> Outputs:
    """As `forward.two_pass`, with a share of 0.3 and trained embeddings."""
    scored = batch.slots >= 0
    logits = _logits(params, _hidden(params, batch, _embed(params, batch.tokens)))
    before = jnp.roll(jax.lax.stop_gradient(logits).argmax(-1).astype(jnp.int32), 1, axis=1)
    greedy = jnp.where(scored, before, batch.tokens)
    rows = forward.mix(lambda ids: _embed(params, ids), batch.tokens, greedy, jnp.float32(0.3), train_embeddings=True)
    return _outputs(params, batch, step, rows).replace(greedy=jnp.where(scored, before, 0))


def _whole(weight):
    return sharding.shard(weight, *(None,) * weight.ndim)


def _embed(params, ids):
    return jax.nn.one_hot(ids, VOCAB) @ _whole(params["tokens"])


def _hidden(params, batch, rows):
    order = jnp.arange(batch.tokens.shape[1])
    segments, prefixes = batch.segments, batch.prefixes
    same = (segments[:, :, None] == segments[:, None]) | (prefixes[:, :, None] == segments[:, None])
    seen = (same & (segments[:, :, None] > 0) & (segments[:, None] > 0) & (order[:, None] >= order)).astype(jnp.float32)
    x = rows + jax.nn.one_hot(batch.positions, LONGEST) @ _whole(params["positions"])
    summed = jnp.einsum("rij,rjd->rid", seen, jnp.tanh(x))
    return jnp.where(segments[:, :, None] > 0, jnp.tanh(x + summed / (batch.positions[:, :, None] + 1.0)), 0.0)


def _logits(params, hidden):
    return 3 * jnp.einsum("rtd,vd->rtv", hidden, _whole(params["head"]))


def _outputs(params, batch, step, rows):
    hidden = _hidden(params, batch, rows)
    logps = jnp.roll(jax.nn.log_softmax(_logits(params, hidden)), 1, axis=1)
    values = jnp.einsum("rtv,rtv->rt", logps, jax.nn.one_hot(batch.tokens, VOCAB))
    count = batch.valid.size // len(batch.slots)
    prompts = heads.prompts_of(batch.positions, batch.segments, batch.prefixes, batch.slots, count).astype(jnp.float32)
    pooled = jnp.einsum("rst,rtd->rsd", prompts, jax.lax.stop_gradient(hidden)) / jnp.maximum(prompts.sum(-1, keepdims=True), 1.0)
    worth = jax.nn.sigmoid(pooled @ _whole(params["value_head"]["query"]))
    worth = worth.reshape(batch.valid.shape, out_sharding=jax.typeof(batch.valid).sharding)
    last = heads.last_tokens(batch.positions, batch.slots, count).astype(jnp.float32)
    rewards = jnp.einsum("rst,rtd->rsd", last, hidden) @ _whole(params["reward_head"]["score"])
    rewards = rewards.reshape(batch.valid.shape, out_sharding=jax.typeof(batch.valid).sharding)
    logps = jnp.where(batch.slots >= 0, values, 0.0)
    after = hidden @ _whole(params["critic"]["score"])
    of_critic = jnp.where(batch.slots >= 0, jnp.roll(after, 1, axis=1), 0.0)
    heads_of = {"rewards": rewards, "features": _features(params, batch), "values": of_critic}
    return Outputs(logps, sharding.shard(hidden, "rows", "tokens", None), params["head"], worth, **heads_of, step=step, vocab_size=VOCAB)


def _features(params, batch) -> Features | None:
    """Two columns as features, scored by two members."""
    if not {"advantage", "margin"} <= batch.columns.keys():
        return None
    values = jnp.stack([batch.columns["advantage"], batch.columns["margin"]], axis=-1)
    members = jnp.tanh(values @ _whole(params["reward_head"]["score"]).reshape(-1, 2)[:2])
    return Features(values, members, ("advantage", "margin"), (1, -1))


FORWARDS = {"next_token": next_token, "two_pass": two_pass}

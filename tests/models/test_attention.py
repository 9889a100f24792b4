"""Attention by blocks equals the rule written out densely, in values and gradients, and costs what the groups of a row cost."""

import functools

from attention_rows import with_gradients
import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import sharding
from jaxalign.models.attention import blocks, rule, xla

ROWS, LENGTH, HEADS, KV_HEADS, SIZE, BLOCK = 8, 61, 4, 2, 8, 8  # 61 tokens: seven blocks and a part of one


def row(random, responses: int, *, longest: int = 9):
    """(positions, segments, prefixes) of a row filled with groups of a prompt and this many responses, of 1 token or more."""
    columns, segment, used = ([], [], []), 0, 0
    while True:
        lengths = random.integers(1, longest, 1 + responses)
        if used + lengths.sum() > LENGTH:
            break
        used, prompt = used + lengths.sum(), segment + 1
        for piece, length in enumerate(lengths):
            segment += 1
            start = lengths[0] - 1 if piece else 0
            values = start + np.arange(length), np.full(length, segment), np.full(length, prompt * (piece > 0))
            for column, piece_values in zip(columns, values, strict=True):
                column.extend(piece_values)
    return [np.pad(column, (0, LENGTH - used)) for column in columns]


def batch(seed: int):
    """Positions, segments and prefixes int32[R, T]: K = 1 in the first row, 2 in the second, ... and a row of padding."""
    random = np.random.default_rng(seed)
    rows = [row(random, responses, longest=61 // (responses + 1) if seed % 2 else 6) for responses in range(1, ROWS + 1)]
    rows[2] = [np.zeros(LENGTH, int)] * 3
    return [np.stack(x).astype(np.int32) for x in zip(*rows, strict=True)]


def dense(q, k, v, positions, segments, prefixes, window, softcap):
    """The rule of `types.Batch`, written out over [R, H, T, T]."""
    k, v = (jnp.repeat(x, HEADS // KV_HEADS, axis=2) for x in (k, v))
    own, theirs, index = segments[:, :, None], segments[:, None], np.arange(q.shape[1])
    seen = (index <= index[:, None]) & (own != 0) & ((theirs == own) | ((prefixes[:, :, None] != 0) & (theirs == prefixes[:, :, None])))
    seen = (seen & ((window == 0) | (positions[:, :, None] - positions[:, None] < window)))[:, None]
    scores = jnp.einsum("rqhe,rthe->rhqt", q, k)
    scores = jnp.where(seen, softcap * jnp.tanh(scores / softcap) if softcap else scores, -1e9)
    return jnp.einsum("rhqt,rthe->rqhe", jnp.where(seen, jax.nn.softmax(scores), 0), v)


def weights():
    random = np.random.default_rng(5)
    return [random.standard_normal((ROWS, LENGTH, heads, SIZE)).astype(np.float32) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]


@functools.cache
def expected(softcap):
    return with_gradients(functools.partial(dense, softcap=softcap))


@functools.cache
def ours(softcap, sizes=(1, 1, 1), platform="cpu"):
    """The same from `rule.attend` with blocks of BLOCK tokens, on a mesh of these sizes, for numpy arrays."""
    mesh = sharding.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    run = with_gradients(functools.partial(rule.attend, softcap=softcap, implementation="xla"))

    def on_mesh(q, k, v, direction, *marks):
        with pytest.MonkeyPatch.context() as patch, jax.set_mesh(mesh):
            patch.setattr(xla, "BLOCK", BLOCK)
            if platform != "cpu":
                patch.setattr(jax.lax, "platform_dependent", lambda *arrays, cpu, default: default(*arrays))
            spread = "kv_heads" if KV_HEADS % sizes[2] == 0 else None
            heads = [sharding.shard(jnp.asarray(x), "rows", None, axis, None) for x, axis in ((q, "heads"), (k, spread), (v, spread))]
            direction = sharding.shard(jnp.asarray(direction), "rows", None, "heads", None)
            return jax.tree.map(np.asarray, run(*heads, direction, *checkpoints.rows(*marks[:3]), jnp.int32(marks[3])))

    return on_mesh


def assert_equal(arrays, oracle):
    for name, array, right in zip(("attention", "dq", "dk", "dv"), arrays, oracle, strict=True):
        np.testing.assert_allclose(array, right, rtol=0, atol=3e-6 * np.abs(right).max(), err_msg=name)


@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("window", [0, 1, 7, 30])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_values_and_gradients_are_those_of_the_dense_rule(seed, window, softcap):
    arguments = *weights(), *batch(seed), np.int32(window)
    assert_equal(ours(softcap)(*arguments), expected(softcap)(*arguments))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (1, 1, 4), (2, 2, 2)])
def test_every_mesh_gives_the_values_and_gradients_of_the_dense_rule(sizes):
    arguments = *weights(), *batch(1), np.int32(7)
    assert_equal(ours(0.0, sizes)(*arguments), expected(0.0)(*arguments))


@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_the_form_of_other_platforms_gives_the_same(softcap):
    arguments = *weights(), *batch(3), np.int32(7)
    assert_equal(ours(softcap, platform="tpu")(*arguments), expected(softcap)(*arguments))


def test_segments_in_any_order_with_any_positions_are_seen_by_the_rule():
    random = np.random.default_rng(7)
    positions, segments, prefixes = (random.integers(low, 6, (ROWS, LENGTH)).astype(np.int32) for low in (0, -3, -3))
    arguments = *weights(), positions, np.maximum(segments, 0), np.maximum(prefixes, 0), np.int32(3)
    assert_equal(ours(0.0)(*arguments), expected(0.0)(*arguments))


@pytest.mark.parametrize(("window", "counts"), [(0, [1, 2, 3]), (9, [1, 2, 2])])
def test_a_row_costs_what_its_groups_cost(window, counts):
    # A prompt of one block and two responses: of one block, which sees the prompt and itself; of two, which sees the prompt and itself.
    prompt, first, second, groups = 8, 8, 16, 5
    segments = np.repeat(np.arange(1, 3 * groups + 1), [prompt, first, second] * groups)
    prefixes = np.where(segments % 3 == 1, 0, (segments - 1) // 3 * 3 + 1)
    positions = np.concatenate([np.arange(prompt), prompt + np.arange(first), prompt + np.arange(second)] * groups)
    marks = (jnp.pad(jnp.asarray(x), (0, 16)) for x in (positions, segments, prefixes))  # two blocks of padding
    _, _, (places, count) = xla._marks(*marks, jnp.int32(window), blocks.Part(0, len(segments) + 16), BLOCK, BLOCK)
    assert count.tolist() == [1, 2, 2, counts[2]] * groups + [0, 0]
    assert places[6, :2].tolist() == [4, 6]  # the second group's second response meets its prompt, not the first response

"""The attention rule: packed, shared and padded rows give what each sequence gives alone."""

import re

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import sharding
from jaxalign.models import layers
from jaxalign.models import model as models
from jaxalign.models.attention import rule, xla
from jaxalign.models.config import ModelConfig

SMALL = dict(vocab_size=97, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=48, max_positions=64)
KINDS = {
    "full": dict(family="llama"),
    "windowed": dict(family="mistral", windows=(4, 4)),
    "mixed windows and local rotary": dict(family="gemma3", windows=(4, 0), local_rope_theta=100.0, qk_norm=True, attention_softcap=2.0),
    "learned positions": dict(family="gpt2", rotary_fraction=0.0, learned_positions=True, norm="layer", gated=False),
}
RANDOM = np.random.default_rng(0)
PROMPT, FIRST, SECOND = (RANDOM.integers(0, 97, n) for n in (7, 9, 6))


@pytest.fixture(scope="module", params=list(KINDS))
def model_and_params(request):
    model = models.build(ModelConfig(**SMALL, **KINDS[request.param], init_std=0.2))
    with jax.set_mesh(checkpoints.one_device()):
        run = jax.jit(lambda params, inputs: checkpoints.hidden(model, params, inputs))
        return model, models.init(model, jax.random.key(0)), run


LENGTH = len(PROMPT) + len(FIRST) + len(SECOND)


def _run(model_and_params, *arrays):
    """Hidden states of one row, which is filled up with padding to LENGTH so that one program serves every test."""
    model, params, run = model_and_params
    count = len(arrays[0])
    with jax.set_mesh(checkpoints.one_device()):
        inputs = checkpoints.rows(*(np.pad(x, (0, LENGTH - count))[None] for x in arrays))
        return np.asarray(run(params, inputs))[0, :count]


def _alone(model_and_params, tokens):
    n = len(tokens)
    return _run(model_and_params, tokens, np.arange(n), np.ones(n), np.zeros(n))


def _assert_close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_two_sequences_packed_in_a_row_are_as_each_alone(model_and_params):
    a, b = np.concatenate([PROMPT, FIRST]), SECOND
    n, m = len(a), len(b)
    packed = _run(
        model_and_params, np.concatenate([a, b]), np.concatenate([np.arange(n), np.arange(m)]), np.repeat([1, 2], [n, m]), np.zeros(n + m)
    )
    _assert_close(packed[:n], _alone(model_and_params, a))
    _assert_close(packed[n:], _alone(model_and_params, b))


def test_two_responses_that_share_a_prompt_are_as_each_alone(model_and_params):
    p, n, m = len(PROMPT), len(FIRST), len(SECOND)
    shared = _run(
        model_and_params,
        np.concatenate([PROMPT, FIRST, SECOND]),
        np.concatenate([np.arange(p), p + np.arange(n), p + np.arange(m)]),
        np.repeat([5, 6, 7], [p, n, m]),
        np.repeat([0, 5, 5], [p, n, m]),
    )
    first = _alone(model_and_params, np.concatenate([PROMPT, FIRST]))
    second = _alone(model_and_params, np.concatenate([PROMPT, SECOND]))
    _assert_close(shared[: p + n], first)
    _assert_close(shared[p + n :], second[p:])


@pytest.mark.parametrize(
    "model_and_params", ["full", pytest.param("mixed windows and local rotary", marks=pytest.mark.slow)], indirect=True
)
def test_padding_changes_nothing_and_its_gradient_is_finite(model_and_params):
    model, params, _ = model_and_params
    n, filler = len(FIRST), 5
    arrays = [np.pad(x, (0, filler)) for x in (FIRST, np.arange(n), np.ones(n), np.zeros(n))]
    with jax.set_mesh(checkpoints.one_device()):
        inputs = checkpoints.rows(*(np.stack([x, np.zeros_like(x)]) for x in arrays))  # the second row is all padding

        alone = checkpoints.rows(*(x[None, :n] for x in arrays))

        def of_padded(params, keep_padding):
            states = checkpoints.hidden(model, params, inputs)
            return jnp.where((inputs[2] > 0)[..., None] | keep_padding, jnp.sin(states), 0).sum(), states

        def of_alone(params):
            states = checkpoints.hidden(model, params, alone)
            return jnp.sin(states).sum(), states

        differentiate = jax.jit(jax.value_and_grad(of_padded, has_aux=True))
        (_, states), gradient = differentiate(params, False)
        _, with_padding = differentiate(params, True)
        (_, expected_states), expected = jax.jit(jax.value_and_grad(of_alone, has_aux=True))(params)
    _assert_close(np.asarray(states)[0, :n], np.asarray(expected_states)[0])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((states, gradient, with_padding)))
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest), gradient, expected)


@pytest.mark.parametrize("window", [0, 3])
def test_blocks_of_queries_equal_a_dense_mask_written_out(monkeypatch, window):
    monkeypatch.setattr(xla, "BLOCK", 4)  # 10 tokens: three blocks, the last filled up
    q, k, v = (RANDOM.standard_normal((2, 10, heads, 8)).astype(np.float32) for heads in (4, 2, 2))
    segments = np.array([[1, 1, 1, 2, 2, 3, 3, 3, 0, 0], [4, 4, 4, 4, 4, 4, 4, 4, 4, 4]])
    prefixes = np.array([[0, 0, 0, 1, 1, 1, 1, 1, 0, 0], [0] * 10])
    positions = np.array([[0, 1, 2, 3, 4, 3, 4, 5, 0, 0], list(range(10))])

    def sees(r, i, j):
        own, theirs = segments[r, i], segments[r, j]
        related = own != 0 and (theirs == own or (prefixes[r, i] != 0 and theirs == prefixes[r, i]))
        return j <= i and related and (window == 0 or positions[r, i] - positions[r, j] < window)

    expected = np.zeros_like(q)
    for r, i, h in np.ndindex(2, 10, 4):
        seen = [j for j in range(10) if sees(r, i, j)]
        if seen:
            weights = np.exp([q[r, i, h] @ k[r, j, h // 2] for j in seen])
            expected[r, i, h] = weights @ v[r, seen, h // 2] / weights.sum()
    with jax.set_mesh(checkpoints.one_device()):
        heads = [sharding.shard(jnp.asarray(x), "rows", None, "heads", None) for x in (q, k, v)]
        inputs = checkpoints.rows(positions, segments, prefixes)
        found = rule.attend(*heads, *inputs, jnp.int32(window), softcap=0.0, implementation="xla")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", "attention", "full"])
def test_remat_policies_change_no_gradient(remat):
    model = models.build(ModelConfig(**SMALL, family="llama", init_std=0.2))
    with jax.set_mesh(checkpoints.one_device()):
        params, inputs = models.init(model, jax.random.key(0)), checkpoints.plain(FIRST[None])

        def gradient(remat):
            return jax.jit(jax.grad(lambda p: jnp.sin(checkpoints.hidden(model, p, inputs, remat=remat)).sum()))(params)

        ours, expected = gradient(remat), gradient("none")
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest), ours, expected)


def test_attention_that_is_kept_is_computed_once():
    model = models.build(ModelConfig(**SMALL, family="llama"))
    with jax.set_mesh(checkpoints.one_device()):
        params, inputs = models.init(model, jax.random.key(0)), checkpoints.plain(FIRST[None])

        def exponentials(remat):
            text = str(jax.make_jaxpr(jax.grad(lambda p: checkpoints.hidden(model, p, inputs, remat=remat).sum()))(params))
            return len(re.findall(r"= exp\b", text))

        counts = {remat: exponentials(remat) for remat in ("full", "attention", "dots")}
    assert counts["attention"] == counts["dots"] < counts["full"]


def test_bfloat16_computes_near_float32_and_returns_bfloat16():
    model = models.build(ModelConfig(**SMALL, family="llama", init_std=0.2))
    with jax.set_mesh(checkpoints.one_device()):
        params, inputs = models.init(model, jax.random.key(0)), checkpoints.plain(FIRST[None])
        narrow = checkpoints.hidden(model, params, inputs, dtype=jnp.bfloat16)
        wide = checkpoints.hidden(model, params, inputs)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(narrow, np.float32), wide, rtol=0, atol=0.05 * np.abs(wide).max())


def test_the_embedding_gradient_of_a_frequent_token_is_summed_in_float32():
    table = layers.weight((128, 4), ("vocab", "embed"))
    with jax.set_mesh(checkpoints.one_device()):
        ids = checkpoints.rows(np.full((2, 2048), 7))[0]
        state = sharding.shard(jnp.ones((128, 4)), "vocab", "embed")

        def total(state):
            return layers.embed(table.replace(state), ids, jnp.bfloat16).astype(jnp.float32).sum()

        gradient = np.asarray(jax.jit(jax.grad(total))(state))
    np.testing.assert_array_equal(gradient, np.eye(128)[7][:, None] * np.full(4, 4096.0))  # summed in bfloat16 it would stop at 256


@pytest.mark.parametrize(("options", "message"), [({"remat": "some"}, "unknown remat"), ({"attention": "fast"}, "unknown attention")])
def test_unknown_policies_are_refused_with_the_known_ones(options, message):
    model = models.build(ModelConfig(**SMALL, family="llama"))
    with jax.set_mesh(checkpoints.one_device()), pytest.raises(ValueError, match=message + ".*choose one of"):
        checkpoints.hidden(model, models.init(model, jax.random.key(0)), checkpoints.plain(FIRST[None]), **options)

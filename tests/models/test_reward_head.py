"""The reward head and the critic: the tokens that they read, any packing and mesh, both kinds, and a gradient into the decoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign import sharding
from jaxalign.data.rows import pack
from jaxalign.models import model as models
from jaxalign.models.config import REWARD_HEADS, ModelConfig
from jaxalign.training import forward
from jaxalign.types import sum_responses

COUNT, ROW_TOKENS = 6, 128
SINGLE = np.arange(COUNT)[:, None]


@functools.cache
def with_head(kind="linear"):
    return models.build(toys.CONFIG, reward_head=kind, critic=kind)


def parameters(kind="linear"):
    """Random parameters on the mesh in scope, biases too."""
    draw = np.random.default_rng(0)

    def leaf(shape, partition):
        return jax.device_put((0.3 * draw.standard_normal(shape.shape)).astype(np.float32), sharding.named(partition))

    return jax.tree.map(leaf, with_head(kind).shapes, models.shardings(with_head(kind)))


def rows(plan, *, share_prompt=True):
    return pack.assemble(toys.groups(COUNT, seed=3), np.asarray(plan, np.int32), row_tokens=ROW_TOKENS, share_prompt=share_prompt)


@functools.partial(jax.jit, static_argnames="kind")
def look(params, batch, kind="linear"):
    return forward.next_token(with_head(kind), params, batch, jnp.int32(3), dtype=jnp.float32, remat="none", attention="xla")


def rewards(plan, *, mesh=(1, 1, 1), **options):
    """By group: float32[COUNT, 6], the rewards and the sums of the critic's values; of three responses the last is to another prompt."""
    with jax.set_mesh(toys.mesh(mesh)):
        batch = toys.place(rows(plan, **options))
        outputs = look(parameters(), batch)
        found = np.concatenate([outputs.rewards, sum_responses(outputs.values, batch)], 1)
    members = np.asarray(plan).reshape(-1)
    return found[[int(np.flatnonzero(members == g)[0]) for g in range(COUNT)]]


@functools.cache
def alone():
    return rewards(SINGLE)


@pytest.mark.parametrize("kind", REWARD_HEADS)
def test_a_reward_is_the_head_applied_to_the_last_scored_token(kind):
    arrays = rows(SINGLE)
    with jax.set_mesh(toys.mesh()):
        params = parameters(kind)
        found = jax.device_get(look(params, toys.place(arrays), kind))
        head = jax.device_get(params["reward_head"])
    assert found.step == 3
    for group, k in np.ndindex(COUNT, 2):
        scored = np.flatnonzero(arrays["slots"][group] == k)
        if not len(scored):
            assert (group, k) == (1, 1) and found.rewards[group, k] == 0
            continue
        x = found.hidden[group, scored[-1]]
        for layer in ("first", "second", "third") if kind == "mlp" else ():
            x = np.maximum(x @ head[layer]["kernel"] + head[layer]["bias"], 0)
        np.testing.assert_allclose(found.rewards[group, k], (x @ head["score"]["kernel"])[0], rtol=1e-4, atol=1e-5)
    assert len(np.unique(found.rewards[:, :2].round(4))) == 2 * COUNT


@pytest.mark.parametrize("kind", REWARD_HEADS)
def test_the_value_of_a_token_is_the_critic_applied_to_the_state_before_it(kind):
    arrays = rows(SINGLE)
    with jax.set_mesh(toys.mesh()):
        params = parameters(kind)
        found = jax.device_get(look(params, toys.place(arrays), kind))
        head = jax.device_get(params["critic"])
    x = np.roll(found.hidden, 1, axis=1)
    for layer in ("first", "second", "third") if kind == "mlp" else ():
        x = np.maximum(x @ head[layer]["kernel"] + head[layer]["bias"], 0)
    expected = (x @ head["score"]["kernel"] + head["score"]["bias"])[..., 0]
    np.testing.assert_allclose(found.values, np.where(arrays["slots"] >= 0, expected, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share_prompt", [True, False])
@pytest.mark.parametrize("plan", [[[0, 1, 2], [3, 4, 5]], [[5, 3, -1], [-1, 1, 0], [2, 4, -1]]], ids=["packed", "mixed"])
def test_packing_and_sharing_of_prompts_do_not_change_a_reward(plan, share_prompt):
    np.testing.assert_allclose(rewards(plan, share_prompt=share_prompt), alone(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)], ids=str)
def test_meshes_agree_on_a_reward(mesh):
    plan = np.array([[0, 1], [2, -1], [3, -1], [4, -1], [5, -1], [-1, -1], [-1, -1], [-1, -1]])
    np.testing.assert_allclose(rewards(plan, mesh=mesh), alone(), rtol=1e-5, atol=1e-6)


def test_decoder_and_head_get_a_gradient_and_the_vocabulary_none():
    with jax.set_mesh(toys.mesh()):
        gradient = jax.jit(jax.grad(lambda params, batch: (look(params, batch).rewards ** 2).sum()))(parameters(), toys.place(rows(SINGLE)))
    reached = {name for name, part in gradient.items() if any(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(part))}
    assert reached == gradient.keys() - {"head", "critic"}


def test_both_heads_stand_beside_each_other_and_draw_their_own_numbers():
    both = models.build(toys.CONFIG, models.ValueHeadConfig(heads=4), "linear")
    with jax.set_mesh(toys.mesh()):
        key = jax.random.key(0)
        made, whole = models.init_heads(both, key), models.init(with_head(), key)
        np.testing.assert_array_equal(made["reward_head"]["score"]["kernel"], whole["reward_head"]["score"]["kernel"])
        assert made.keys() == {"value_head", "reward_head"} and models.init_heads(toys.model(), key) == {}
    np.testing.assert_allclose(np.std(made["reward_head"]["score"]["kernel"]), 1 / 33, rtol=0.5)


def test_an_unknown_kind_of_head_is_refused():
    config = ModelConfig(family="llama", vocab_size=8, width=4, layers=1, heads=1, kv_heads=1, head_dim=4, mlp_width=4, max_positions=8)
    with pytest.raises(ValueError, match="reward head 'cubic' is not one of linear, mlp"):
        models.build(config, reward_head="cubic")
    with pytest.raises(ValueError, match="critic 'cubic' is not one of linear, mlp"):
        models.build(config, critic="cubic")

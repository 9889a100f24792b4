"""A critic with a decoder of its own: of another size, trained by itself, and started from a model, a reward model or a run."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest
import toys

from jaxalign import train
from jaxalign.config import build, files
from jaxalign.config.resolve import resolve
from jaxalign.data.rows import pack
from jaxalign.models import model as models
from jaxalign.reports import log
from jaxalign.training import forward, sources

SMALL = dataclasses.replace(toys.CONFIG, width=24, mlp_width=24)
PPO = f"{Path(__file__).parents[1] / 'rollout' / 'spoken.py'}:ppo"


@functools.cache
def apart():
    return models.build(toys.CONFIG, critic="linear", critic_config=SMALL)


def values(params, batch):
    return forward.next_token(apart(), params, batch, jnp.int32(0), dtype=jnp.float32, remat="none", attention="xla").values


@pytest.fixture(scope="module")
def found():
    """(batch, params, values, their gradient, the states of the critic's decoder)."""
    rows = pack.assemble(toys.groups(4, seed=3), np.arange(4)[:, None], row_tokens=128, share_prompt=True)
    with jax.set_mesh(toys.mesh()):
        batch, params = toys.place(rows), models.init(apart(), jax.random.key(0))
        given, gradient = jax.jit(lambda p, b: (values(p, b), jax.grad(lambda q: (values(q, b) ** 2).sum())(p)))(params, batch)
        own = models.build(dataclasses.replace(SMALL, tied=True))
        inputs = batch.tokens, batch.positions, batch.segments, batch.prefixes
        how = {"dtype": jnp.float32, "remat": "none", "attention": "xla"}
        states = jax.jit(lambda p, *x: models.hidden(own, p, *x, **how))(params["critic"]["decoder"], *inputs)
    return rows, *jax.device_get((params, given, gradient, states))


@pytest.mark.slow
def test_its_value_is_the_head_on_the_states_of_its_own_decoder(found):
    rows, params, given, _, states = found
    head = params["critic"]["score"]
    expected = (np.roll(states, 1, axis=1) @ head["kernel"] + head["bias"])[..., 0]
    np.testing.assert_allclose(given, np.where(rows["slots"] >= 0, expected, 0), rtol=1e-4, atol=1e-5)


def test_it_trains_its_own_decoder_and_leaves_the_policy_alone(found):
    gradient = found[3]
    reached = {name for name, part in gradient.items() if any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(part))}
    assert reached == {"critic"} and np.abs(gradient["critic"]["decoder"]["layers"]["mlp"]["up"]["kernel"]).max() > 0
    assert "head" not in gradient["critic"]["decoder"] and models.without_head(gradient).keys() == gradient.keys() - {"critic"}


def configured(**model):
    cfg = ConfigDict(files.load_file(PPO))
    cfg.model = ConfigDict(dict(checkpoint="package:stories260k", critic="linear", **model))
    return resolve(cfg)


def test_it_starts_from_what_is_named():
    cfg = configured(critic_checkpoint="package:stories260k")
    with jax.set_mesh(toys.mesh()):
        model = build.model(cfg)
        params = jax.device_get(build.params(cfg, model))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["critic"]["decoder"]):
        np.testing.assert_array_equal(leaf, functools.reduce(lambda tree, key: tree[key.key], path, params))
    assert model.critic_decoder.config.layers == model.config.layers and np.abs(params["critic"]["score"]["kernel"]).max() > 0


def test_a_critic_of_another_vocabulary_is_refused_and_so_is_one_without_a_head():
    cfg = ConfigDict(files.load_file(PPO))
    cfg.model.critic_checkpoint = "package:stories260k"
    cfg.model.config.vocab_size = 640
    with pytest.raises(ValueError, match="critic_checkpoint='package:stories260k' has 512 tokens in its vocabulary and the policy 640"):
        build.model(resolve(cfg))
    cfg.model.critic = None
    with pytest.raises(ValueError, match="critic_checkpoint='package:stories260k': the model has no critic; set model.critic='linear'"):
        resolve(cfg)


@pytest.mark.slow
def test_a_separate_critic_is_trained_kept_and_goes_on(tmp_path):
    settings = {"train.total_steps": 2, "data.rollout.epochs": 1, "data.rollout.every_steps": 1}
    flags = [f"--config.{key}={value}" for key, value in (settings | {"model.critic_checkpoint": "package:stories260k"}).items()]
    assert train.main(["--config", PPO, "--workdir", str(tmp_path), *flags]) == 0
    assert all(line["ratios/mean"] == 1 and line["values/error_square"] > 0 for line in log.read_metrics(tmp_path, "train"))
    cfg = configured(critic_checkpoint=str(tmp_path))
    with jax.set_mesh(toys.mesh()):
        kept = sources.restore_params(tmp_path)[1]["critic"]
        ours = build.params(cfg, build.model(cfg))["critic"]
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), jax.device_get(kept))
        start = build.params(configured(), build.model(configured()))
        assert any(np.asarray(new != old).any() for new, old in zip(*map(jax.tree.leaves, (kept["decoder"], start)), strict=False))

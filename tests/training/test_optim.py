"""Optimizers and schedules: what decays, what clips, how the learning rate goes."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from jaxalign.config import build
from jaxalign.models import model as models
from jaxalign.models import presets
from jaxalign.training import optim


@pytest.mark.parametrize("name", ["qwen2.5-7b", "gpt2", "pythia-2.8b", "llama3-8b"])
def test_only_matrices_decay(name):
    axes = models.build(presets.preset(name)).axes
    is_axes = lambda a: isinstance(a, tuple)  # noqa: E731
    ones = jax.tree.map(lambda _: jnp.ones(()), axes, is_leaf=is_axes)
    constant = optim.make_schedule("constant", learning_rate=1.0, warmup_steps=0, total_steps=1, min_lr_ratio=0.0)
    optimizer = optim.make_optimizer(optim.adamw, constant, max_grad_norm=0.0, weight_decay=0.5, axes=axes)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, ones), optimizer.init(ones), ones)
    decayed = {jax.tree_util.keystr(path) for path, update in jax.tree.leaves_with_path(updates) if float(update) != 0}
    kernels = {
        jax.tree_util.keystr(path)
        for path, _ in jax.tree.leaves_with_path(axes, is_leaf=is_axes)
        if path[-1].key == "kernel" or path[0].key == "embed"
    }
    assert decayed == kernels


@pytest.mark.parametrize(("name", "rests"), [("llama3-8b", True), ("gpt2", False)])  # gpt2's table is its head
def test_a_table_that_no_gradient_reaches_does_not_decay(name, rests):
    built, forward = models.build(presets.preset(name)), dict(name="two_pass", train_embeddings=False)
    axes = build.decaying_axes(ConfigDict(dict(forward=forward)), built)
    assert axes["embed"]["tokens"] == (() if rests else ("vocab", "embed"))
    assert {key: axes[key] for key in axes if key != "embed"} == {key: built.axes[key] for key in axes if key != "embed"}
    assert build.decaying_axes(ConfigDict(dict(forward=dict(forward, train_embeddings=True))), built) == built.axes


@pytest.mark.parametrize(("shape", "end"), [("constant", 1.0), ("linear", 0.1), ("cosine", 0.1)])
def test_the_learning_rate_rises_from_its_first_step_and_ends_where_it_should(shape, end):
    schedule = optim.make_schedule(shape, learning_rate=1.0, warmup_steps=4, total_steps=10, min_lr_ratio=0.1)
    np.testing.assert_allclose([float(schedule(step)) for step in range(5)], [0.25, 0.5, 0.75, 1.0, 1.0], rtol=1e-6)
    assert float(schedule(10)) == pytest.approx(end)


def test_one_step_of_warm_up_trains_at_the_peak():
    assert float(optim.make_schedule("linear", learning_rate=1.0, warmup_steps=1, total_steps=5, min_lr_ratio=0.0)(0)) == 1.0

"""Optimizers and schedules: what decays, what clips, how the learning rate goes."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest
import toys

from jaxalign.config import optimizers
from jaxalign.models import model as models
from jaxalign.models import presets
from jaxalign.models.lora import LoraConfig
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
    axes = optimizers.decaying_axes(ConfigDict(dict(forward=forward)), built)
    assert axes["embed"]["tokens"] == (() if rests else ("vocab", "embed"))
    assert {key: axes[key] for key in axes if key != "embed"} == {key: built.axes[key] for key in axes if key != "embed"}
    assert optimizers.decaying_axes(ConfigDict(dict(forward=dict(forward, train_embeddings=True))), built) == built.axes


@pytest.mark.parametrize(("shape", "end"), [("constant", 1.0), ("linear", 0.1), ("cosine", 0.1)])
def test_the_learning_rate_rises_from_its_first_step_and_ends_where_it_should(shape, end):
    schedule = optim.make_schedule(shape, learning_rate=1.0, warmup_steps=4, total_steps=10, min_lr_ratio=0.1)
    np.testing.assert_allclose([float(schedule(step)) for step in range(5)], [0.25, 0.5, 0.75, 1.0, 1.0], rtol=1e-6)
    assert float(schedule(10)) == pytest.approx(end)


def test_one_step_of_warm_up_trains_at_the_peak():
    assert float(optim.make_schedule("linear", learning_rate=1.0, warmup_steps=1, total_steps=5, min_lr_ratio=0.0)(0)) == 1.0


AXES = {"layers": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}, "head": {"kernel": ("vocab", "embed")}}


def numpy_adamw(params, gradients, rates, *, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.3, max_norm=2.0):
    """AdamW in float64, one gradient a step: clip the whole gradient, correct the bias of the moments, decay kernels by rate * decay."""
    params = {path: np.float64(value) for path, value in params.items()}
    m, v = ({path: np.zeros_like(value) for path, value in params.items()} for _ in range(2))
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values()))
        for path, g in gradient.items():
            g = g * min(1, max_norm / norm)
            m[path], v[path] = b1 * m[path] + (1 - b1) * g, b2 * v[path] + (1 - b2) * g**2
            step = m[path] / (1 - b1**t) / (np.sqrt(v[path] / (1 - b2**t)) + eps)
            params[path] = params[path] - rate * (step + weight_decay * params[path] * ("kernel" in path))
    return params


def flat(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def test_adamw_is_that_of_numpy_with_clipping_first_and_decay_times_the_rate():
    # Catches: clipping after the rule, decay that is not multiplied by the rate, moments without bias correction, decay of biases.
    random = np.random.default_rng(0)
    params = {"layers": {"kernel": (2, 3, 4), "bias": (2, 4)}, "head": {"kernel": (5, 3)}}
    params = jax.tree.map(lambda shape: random.standard_normal(shape).astype(np.float32), params, is_leaf=lambda x: isinstance(x, tuple))
    sizes = (0.1, 5.0, 0.01, 30.0)  # two below the largest norm and two above it
    gradients = [jax.tree.map(lambda p, s=size: np.float32(s * random.standard_normal(p.shape)), params) for size in sizes]
    schedule = optim.make_schedule("linear", learning_rate=0.2, warmup_steps=2, total_steps=4, min_lr_ratio=0.0)
    rates = [0.1, 0.2, 0.2, 0.1]
    optimizer = optim.make_optimizer(optim.adamw, schedule, max_grad_norm=2.0, weight_decay=0.3, axes=AXES, b2=0.95)
    ours, state = params, optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, ours)
        ours = optax.apply_updates(ours, updates)
    expected = numpy_adamw(flat(params), [flat(g) for g in gradients], rates)
    for path, value in flat(ours).items():
        np.testing.assert_allclose(value, expected[path], rtol=2e-5, atol=2e-6, err_msg=path)


def test_the_learning_rate_of_a_head_is_its_own_and_the_state_is_the_same():
    params = {name: {"kernel": jnp.ones((2, 2))} for name in ("layers", "critic")}
    axes, how = {name: {"kernel": ("embed", "mlp")} for name in params}, dict(max_grad_norm=0.0, weight_decay=0.5)
    plain, scaled = (
        optim.make_optimizer(optim.adamw, optax.constant_schedule(0.1), axes=axes, **how, scales=scales)
        for scales in (None, {"critic": 3.0, "value_head": 2.0})
    )
    state = plain.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(scaled.init(params))
    (expected, after), (found, same) = (optimizer.update(params, state, params) for optimizer in (plain, scaled))
    np.testing.assert_array_equal(found["layers"]["kernel"], expected["layers"]["kernel"])
    np.testing.assert_allclose(found["critic"]["kernel"], 3 * expected["critic"]["kernel"], rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, same, after)


RULES = {**{name: {} for name in optim.RULES}, "lion-bf16": {"mu_dtype": "bfloat16"}, "muon-bf16": {"mu_dtype": "bfloat16"}}


ADAPTED = models.build(toys.CONFIG, lora=LoraConfig(rank=2, alpha=2.0, targets=("q", "down")))


def params_of(seed):
    """Random parameters of the toy model with adapters of two maps, on the mesh in scope."""
    draw = np.random.default_rng([seed, 1])
    adapters = jax.tree.map(lambda shape: (0.1 * draw.standard_normal(shape.shape)).astype(np.float32), ADAPTED.shapes[models.LORA])
    place = models.shardings(ADAPTED)[models.LORA]
    placed = jax.tree.map(lambda x, p: jax.device_put(x, toys.sharding.named(p)), adapters, place)
    return {**toys.place_params(toys.params(seed)), models.LORA: placed}


def two_updates(rule, sizes, **options):
    """(updates of the second step on the host, the state with its layout, the parameters' layout) of the toy model on this mesh."""
    optimizer = optim.make_optimizer(
        optim.RULES[rule.split("-")[0]],
        optax.constant_schedule(0.1),
        max_grad_norm=1.0,
        weight_decay=0.1,
        axes=ADAPTED.axes,
        **options,
        **RULES[rule],
    )
    with jax.set_mesh(toys.mesh(sizes)):
        params = params_of(0)

        @jax.jit
        def run(params, first, second):
            _, state = optimizer.update(first, optimizer.init(params), params)
            return optimizer.update(second, state, params)

        updates, state = run(params, params_of(1), params_of(2))
        partitions = {(x.shape, x.sharding.spec) for x in jax.tree.leaves(params)}
    return flat(updates), state, partitions


@pytest.mark.parametrize("rule", ["adamw", *(pytest.param(rule, marks=pytest.mark.slow) for rule in RULES if rule != "adamw")])
def test_every_rule_gives_the_same_updates_on_a_mesh_and_layer_by_layer_and_lays_its_moments_out_like_the_parameters(rule):
    expected, _, _ = two_updates(rule, (1, 1, 1), by_layer=rule != "adafactor")  # whose clipping measures all layers at once
    updates, state, partitions = two_updates(rule, (2, 2, 2))
    for path, value in updates.items():
        step = 2**-7 if rule.endswith("bf16") else 1e-5  # a moment near the middle of two bfloat16 numbers may round to either
        np.testing.assert_allclose(value, expected[path], rtol=1e-4, atol=step * np.abs(expected[path]).max(), err_msg=path)
    shapes = {shape for shape, _ in partitions}
    moments = [x for x in jax.tree.leaves(state) if x.shape in shapes]
    assert {(x.shape, x.sharding.spec) for x in moments} <= partitions
    assert moments
    assert any(x.dtype == jnp.bfloat16 for x in moments) == rule.endswith("bf16")


def test_muon_is_that_of_optax_on_matrices_and_adamw_on_the_rest():
    random = np.random.default_rng(3)
    axes = {"layers": {"kernel": ("layers", "embed", "heads", None), "bias": ("layers", "mlp")}, "head": {"kernel": ("vocab", "embed")}}
    shapes = {"layers": {"kernel": (2, 6, 2, 4), "bias": (2, 4)}, "head": {"kernel": (5, 6)}}
    axes["layers"] |= {"a": ("layers", "embed", "rank"), "b": ("layers", "rank", "heads", None)}
    shapes["layers"] |= {"a": (2, 6, 3), "b": (2, 3, 2, 4)}
    params, *gradients = (
        jax.tree.map(lambda shape: random.standard_normal(shape).astype(np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple))
        for _ in range(4)
    )
    sides = {name: optax.contrib.MuonDimensionNumbers((1,), tuple(range(2, len(shapes["layers"][name])))) for name in ("kernel", "a", "b")}
    dimensions = {"layers": {**sides, "bias": None}, "head": {"kernel": None}}
    theirs = optax.contrib.muon(0.1, muon_weight_dimension_numbers=dimensions, consistent_rms=0.2, adam_b2=0.99)
    # optax's own AdamW of the rest looks ahead as Nesterov does; ours does not
    whole = {"max_grad_norm": 0.0, "weight_decay": 0.0, "axes": axes, "b2": 0.99}
    ours, rest = (optim.make_optimizer(rule, optax.constant_schedule(0.1), **whole) for rule in (optim.muon, optim.adamw))
    with jax.set_mesh(toys.mesh()):
        rules = ours, theirs, rest
        states = [rule.init(params) for rule in rules]
        for gradient in gradients:
            pairs = [rule.update(gradient, state, params) for rule, state in zip(rules, states, strict=True)]
            (updates, muon, adamw), states = (flat(update) for update, _ in pairs), [state for _, state in pairs]
            for path, value in updates.items():
                expected = muon if "layers" in path and "bias" not in path else adamw
                np.testing.assert_allclose(value, expected[path], rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("rule", ["adamw", "lion", "muon"])
def test_a_dtype_that_no_moment_has_is_refused(rule):
    with pytest.raises(ValueError, match="optimizer.mu_dtype='float16'.*float32, bfloat16"):
        optim.RULES[rule](AXES, mu_dtype="float16")

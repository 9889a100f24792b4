"""The train step: what it reduces, what it keeps, what it gives away, and that it compiles once."""

import dataclasses
import functools
import math
import os
import re

import jax
import jax.numpy as jnp
import light
import numpy as np
import optax
import pytest
import toys

from jaxalign import objectives
from jaxalign.data.rows import pack
from jaxalign.training import guards, optim, reference, step
from jaxalign.types import Outputs, Terms

ROW_TOKENS = 64
PLAN = np.arange(8, dtype=np.int32).reshape(4, 2)
SWEEP = os.environ.get("SWEEP")
ARRAY = re.compile(r"\b(?:pred|bf16|[fsu]\d+)\[([\d,]+)\]")


@pytest.fixture
def on_one_device():
    with jax.set_mesh(toys.mesh()):
        yield


@functools.cache
def arrays(seed=5):
    return pack.assemble(toys.groups(8, seed), PLAN, row_tokens=ROW_TOKENS, share_prompt=True)


@functools.cache
def dpo_step():
    return toys.make_step("dpo")


def test_the_state_is_donated(on_one_device):
    state = toys.make_state("dpo")
    new, _ = dpo_step()(state, toys.place(arrays()))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.trainable, state.opt_state, state.reference)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


@pytest.mark.parametrize("mesh", [(1, 1, 1), pytest.param((2, 2, 2), marks=pytest.mark.slow)], ids=str)
def test_two_steps_compile_once(mesh):
    with jax.set_mesh(toys.mesh(mesh)):
        train_step = toys.make_step("dpo")
        state, batch = toys.make_state("dpo", same=True), toys.place(arrays())
        layouts = jax.tree.map(lambda x: x.sharding, state)
        for _ in range(2):
            state, _ = train_step(state, batch)
        assert train_step._cache_size() == 1
        same = jax.tree.map(lambda x, layout: x.sharding.is_equivalent_to(layout, x.ndim), state, layouts)
        assert all(jax.tree.leaves(same))


def test_the_step_counts_and_the_schedule_reads_the_count(on_one_device):
    schedule = optim.make_schedule("linear", learning_rate=1.0, warmup_steps=2, total_steps=4, min_lr_ratio=0.0)
    train_step = step.make_train_step(toys.next_token(), objectives.bind("sft"), reference.none, toys.keep_gradient(), schedule)
    state, batch, rates = toys.make_state("sft"), toys.place(arrays()), []
    for _ in range(5):
        state, metrics = train_step(state, batch)
        rates.append(float(metrics["learning_rate"]))
    assert int(state.step) == 5
    np.testing.assert_allclose(rates, [0.5, 1.0, 1.0, 0.5, 0.0], atol=1e-7)


def test_a_step_that_is_to_be_skipped_changes_nothing_but_its_number(on_one_device):
    def scaled(params, batch, step):  # not finite at step 1; a hundred times as steep at step 2
        values = params["w"] * jnp.ones(batch.tokens.shape) * jnp.array([1.0, jnp.nan, 100.0])[step]
        return Outputs(values, values, values)

    schedule, optimizer = optax.constant_schedule(0.1), optax.adam(0.1)
    made = step.make_train_step(scaled, objectives.bind("sft"), reference.none, optimizer, schedule)
    batch = toys.place(arrays())
    for limit, skipped in ((math.inf, [0, 1, 0]), (20.0, [0, 1, 1])):
        weights = {"w": jnp.float32(0.5)}
        state, train_step = step.init_state(weights, optimizer, rule=reference.RULES["none"], seed=0), step.skipping(made, limit)
        for number, expected in enumerate(skipped):
            before = jax.device_get((state.trainable, state.opt_state))
            state, metrics = train_step(state, batch)
            same = jax.tree.map(np.array_equal, before, jax.device_get((state.trainable, state.opt_state)))
            assert int(state.step) == number + 1 and float(metrics["skipped"]) == expected
            assert all(jax.tree.leaves(same)) == bool(expected)


class NoCheckpoint:
    latest = None

    def wait(self):
        pass


@pytest.mark.parametrize(
    ("policy", "values", "words"),
    [
        (("stop", "stop", None), {"loss": math.nan, "grad_norm": 1.0}, "loss is nan at step 7"),
        (("stop", "skip", 5.0), {"loss": 1.0, "grad_norm": math.inf, "skipped": 1.0}, "grad_norm is inf at step 7"),
        (("skip", "stop", 5.0), {"loss": 1.0, "grad_norm": 6.0}, r"grad_norm is 6, more than train\.spike_grad_norm=5, at step 7"),
        (("skip", "stop", None), {"loss": math.nan, "grad_norm": math.nan, "skipped": 1.0}, None),
        (("stop", "skip", 5.0), {"loss": 1.0, "grad_norm": 6.0, "skipped": 1.0}, None),
        (("stop", "stop", None), {"loss": 1.0, "grad_norm": 1e9}, None),
    ],
)
def test_a_step_that_goes_wrong_ends_the_run_as_the_policy_has_it(policy, values, words):
    checked = guards.Policy(*policy, max_roll_backs=1, learning_rate=0.1)
    for _ in range(guards.MOST_SKIPPED):
        if words is None:
            checked.check(values, 7, checked=(5, 7), saved=NoCheckpoint())
        else:
            with pytest.raises(FloatingPointError, match=rf"{words} .*there is no checkpoint yet.*train\.on_nan or train\.on_spike='skip'"):
                checked.check(values, 7, checked=(5, 7), saved=NoCheckpoint())
    if values.get("skipped") and words is None:
        with pytest.raises(FloatingPointError, match="more than 10 steps in a row had to be skipped"):
            checked.check(values, 8, checked=(5, 8), saved=NoCheckpoint())


def test_a_frozen_reference_keeps_every_bit_and_the_policy_moves(on_one_device):
    state, batch = toys.make_state("dpo", same=True), toys.place(arrays())
    before = jax.device_get(state.reference)
    for _ in range(3):
        state, _ = dpo_step()(state, batch)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, jax.device_get(state.reference))))
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, before, jax.device_get(state.trainable))))


def test_the_first_loss_is_ln_2_with_an_accuracy_of_a_half_and_no_margin(on_one_device):
    _, metrics = dpo_step()(toys.make_state("dpo", same=True), toys.place(arrays()))
    np.testing.assert_allclose(metrics["loss"], math.log(2), rtol=1e-6)
    assert metrics["rewards/accuracies"] == metrics["accuracy"] == 0.5 and metrics["rewards/margins"] == 0
    assert metrics["grad_norm"] > 1e-3


def test_no_gradient_reaches_the_reference(on_one_device):
    batch = toys.place(arrays())

    def loss(policy, constant):
        terms = toys.objective("dpo")[0](*step.outputs_of(toys.next_token(), policy, None, constant, batch, jnp.int32(0)), batch)
        return jnp.sum(terms.loss * terms.weight)

    weights = toys.place_params(toys.params(0)), toys.place_params(toys.params(1))
    to_policy, to_reference = jax.jit(jax.grad(loss, argnums=(0, 1)))(*weights)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(to_policy))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(to_reference))


@pytest.mark.parametrize("microbatches", [1, 4])
def test_loss_and_metrics_are_weighted_means_over_the_whole_batch(on_one_device, microbatches):
    def no_model(params, batch, step):
        values = jnp.zeros(batch.tokens.shape)
        return Outputs(values, values, values)

    train_step = step.make_train_step(
        no_model, objectives.plain(numbered), reference.none, toys.keep_gradient(), optax.constant_schedule(0.0), microbatches=microbatches
    )
    _, metrics = train_step(toys.make_state("sft"), toys.place(arrays() | {"reward": numbers()}))
    weights = np.where(arrays()["valid"], numbers(), 0.0)
    np.testing.assert_allclose(metrics["loss"], np.average(numbers() ** 2, weights=weights), rtol=1e-6)
    np.testing.assert_allclose(metrics["plain"], numbers()[arrays()["valid"]].mean(), rtol=1e-6)
    assert np.isnan(metrics["nobody"])
    assert all(value.dtype == jnp.float32 and value.shape == () for value in metrics.values())


@pytest.mark.parametrize("microbatches", [1, 4])
def test_the_gradient_is_that_of_the_weighted_mean_over_the_whole_batch(on_one_device, microbatches):
    def look(params, batch, step):
        return Outputs(params["scale"] * jnp.ones(batch.tokens.shape))

    def scaled(policy, constant, batch):
        return Terms(policy.logps[0, 0] * batch.reward**2, batch.valid.astype(jnp.float32) * batch.reward, {})

    optimizer = toys.keep_gradient()
    train_step = step.make_train_step(
        look, objectives.plain(scaled), reference.none, optimizer, optax.constant_schedule(0.0), microbatches=microbatches
    )
    state = step.init_state({"scale": jnp.ones(())}, optimizer, rule=reference.RULES["none"], seed=0)
    state, metrics = train_step(state, toys.place(arrays() | {"reward": numbers()}))
    expected = np.average(numbers() ** 2, weights=np.where(arrays()["valid"], numbers(), 0.0))
    np.testing.assert_allclose(state.opt_state[0].trace["scale"], expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], expected, rtol=1e-6)


def numbers():
    return np.arange(1.0, 25.0, dtype=np.float32).reshape(8, 3)


def numbered(policy, constant, batch):
    """An objective whose numbers can be counted by hand; what has no weight may be anything."""
    valid, value = batch.valid.astype(jnp.float32), batch.reward
    loss = jnp.where(batch.valid, value**2, jnp.nan)
    return Terms(loss, valid * value, {"plain": (loss / value, valid), "nobody": (value, jnp.zeros_like(value))})


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_statistics_of_the_whole_batch_are_carried_to_the_next_step(on_one_device, microbatches):
    bound, rule = objectives.bind("bco"), reference.RULES["frozen"]
    train_step = step.make_train_step(
        light.next_token, bound, rule.bind(), toys.keep_gradient(), optax.constant_schedule(0.1), microbatches=microbatches
    )
    state = step.init_state(light.params(0), toys.keep_gradient(), rule=rule, seed=0, statistics=bound.statistics_names)
    state, batch = state.replace(reference={key: light.params(1)[key] for key in state.reference}), toys.place(arrays())
    state, _ = train_step(state, batch)
    first = jax.device_get(state.statistics)
    assert first["seen"] == pytest.approx(0.1) and first["rewards"] != 0  # its decay is 0.9
    state, _ = train_step(state, batch)
    assert float(state.statistics["seen"]) == pytest.approx(0.19)


def test_a_batch_of_padding_changes_nothing_and_has_no_loss(on_one_device):
    empty = pack.empty_batch(4, groups=2, responses=2, row_tokens=ROW_TOKENS)
    state = toys.make_state("dpo")
    before = jax.device_get(state.trainable)
    state, metrics = dpo_step()(state, toys.place(empty))
    assert metrics["loss"] == 0 and metrics["grad_norm"] == 0 and np.isnan(metrics["rewards/margins"])
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, jax.device_get(state.trainable))))


@pytest.mark.slow
@pytest.mark.parametrize("rule", sorted(optim.RULES) if SWEEP else ["adamw"])  # moments of the others: test_optim
def test_state_and_metrics_stay_float32_under_bfloat16_compute(on_one_device, rule):
    schedule = optax.constant_schedule(1e-2)
    optimizer = optim.make_optimizer(optim.RULES[rule], schedule, max_grad_norm=1.0, weight_decay=0.1, axes=toys.model().axes)
    train_step = toys.make_step("dpo", optimizer=optimizer, dtype=jnp.bfloat16, remat="full")
    state, batch = toys.make_state("dpo", optimizer=optimizer), toys.place(arrays())
    kinds = jax.tree.map(lambda x: x.dtype, state)
    state, metrics = train_step(state, batch)
    assert jax.tree.map(lambda x: x.dtype, state) == kinds
    assert {leaf.dtype for leaf in jax.tree.leaves((state.trainable, state.reference))} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.opt_state)} <= {jnp.dtype("float32"), jnp.dtype("int32")}
    assert all(value.dtype == jnp.float32 and np.isfinite(value) for value in metrics.values())
    _, exact = dpo_step()(toys.make_state("dpo"), batch)
    np.testing.assert_allclose(metrics["loss"], exact["loss"], rtol=0.1)


@functools.cache
def of_rows(mesh, rows, microbatches):
    """(metrics, parameters) after a step on the first two groups, or one, each in a row of its own, and rows of filler."""
    plan = np.full((rows, 1), -1, np.int32)
    plan[:2] = np.arange(min(rows, 2))[:, None]
    batch = pack.assemble(toys.groups(8, 5), plan, row_tokens=ROW_TOKENS, share_prompt=True)
    with jax.set_mesh(toys.mesh(mesh)):
        state, metrics = toys.make_step("dpo", microbatches=microbatches)(toys.make_state("dpo"), toys.place(batch))
        return jax.device_get((metrics, state.trainable))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "rows", "microbatches"),
    [
        ((1, 1, 1), 2, 2),
        ((1, 1, 8), 1, 1),
        ((4, 1, 2), 8, 2),
    ],
    ids=str,
)
def test_one_row_per_device_gives_the_step_of_any_other_layout(mesh, rows, microbatches):
    # jax 0.12 drops mesh axes of one device from the types of dimensions of size 1: every dimension of a batch is 1 somewhere here.
    (metrics, trainable), (expected, other) = of_rows(mesh, rows, microbatches), of_rows((1, 1, 1), min(rows, 2), 1)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), trainable, other)


def largest_array(objective, remat):
    """Elements of the largest array in the compiled step at R = 8, T = 512, V = 8192, in units of R * T * V."""
    rows, length, config = 8, 512, dataclasses.replace(toys.CONFIG, vocab_size=8192)
    look = toys.next_token(config, remat=remat)
    objective, schedule = objectives.plain(objective), optax.constant_schedule(0.1)
    train_step = step.make_train_step(look, objective, reference.frozen, toys.keep_gradient(), schedule)
    batch = toys.place(pack.empty_batch(rows, groups=2, responses=2, row_tokens=length))
    text = train_step.lower(toys.make_state("dpo", config=config), batch).compile().as_text()
    return max(math.prod(map(int, sizes.split(","))) for sizes in ARRAY.findall(text)) / (rows * length * 8192)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"] if SWEEP else ["none"])  # which keeps the most
def test_no_array_of_the_compiled_step_has_a_vocabulary_for_every_token(on_one_device, remat):
    # attention scores of all heads would have 0.5 a layer, a chunk of the head has 0.25
    assert largest_array(toys.objective("dpo")[0], remat) <= 0.25


@pytest.mark.slow
def test_the_search_for_such_an_array_finds_one(on_one_device):
    def with_logits(policy, constant, batch):
        terms = toys.objective("dpo")[0](policy, constant, batch)
        logits = jnp.einsum("rtd,vd->rtv", policy.hidden, policy.unembed)
        return terms.replace(loss=terms.loss + jax.nn.logsumexp(logits, axis=-1).sum())

    assert largest_array(with_logits, "full") >= 1

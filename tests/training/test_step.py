"""The train step: what it reduces, what it keeps, what it gives away, and that it compiles once."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys

from jaxalign import objectives
from jaxalign.data.rows import pack
from jaxalign.training import metrics, optim, reference, step
from jaxalign.types import Outputs, Terms

ROW_TOKENS = 64
PLAN = np.arange(8, dtype=np.int32).reshape(4, 2)
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


@pytest.mark.parametrize("mesh", [pytest.param((1, 1, 1), marks=pytest.mark.slow), (2, 2, 2)], ids=str)
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


def test_a_frozen_reference_keeps_every_bit_and_the_policy_moves(on_one_device):
    state, batch = toys.make_state("dpo", same=True), toys.place(arrays())
    before = jax.device_get(state.reference)
    for _ in range(3):
        state, _ = dpo_step()(state, batch)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, jax.device_get(state.reference))))
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, before, jax.device_get(state.trainable))))


@pytest.mark.parametrize("name", ["dpo", pytest.param("cdpo", marks=pytest.mark.slow), pytest.param("rdpo", marks=pytest.mark.slow)])
def test_the_first_loss_is_ln_2_with_an_accuracy_of_a_half_and_no_margin(on_one_device, name):
    _, metrics = toys.make_step(name)(toys.make_state(name, same=True), toys.place(arrays()))
    np.testing.assert_allclose(metrics["loss"], math.log(2), rtol=1e-6)
    assert metrics["rewards/accuracies"] == metrics["accuracy"] == 0.5 and metrics["rewards/margins"] == 0
    assert metrics["grad_norm"] > 1e-3


@pytest.mark.parametrize("name", ["dpo", pytest.param("cdpo", marks=pytest.mark.slow), pytest.param("rdpo", marks=pytest.mark.slow)])
def test_no_gradient_reaches_the_reference(on_one_device, name):
    batch = toys.place(arrays())

    def loss(policy, constant):
        terms = toys.objective(name)[0](*step.outputs_of(toys.next_token(), policy, None, constant, batch, jnp.int32(0)), batch)
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


@pytest.mark.parametrize("microbatches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_statistics_of_the_whole_batch_are_carried_to_the_next_step(on_one_device, microbatches):
    train_step, state, batch = toys.make_step("bco", microbatches=microbatches), toys.make_state("bco"), toys.place(arrays())
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


@pytest.mark.parametrize(
    ("mesh", "parts", "message"), [((1, 1, 1), 3, "multiple of 3"), ((2, 1, 1), 4, "data=2 x fsdp=1 = 2 devices")], ids=["parts", "devices"]
)
def test_rows_that_do_not_split_are_refused(mesh, parts, message):
    words = rf"batch.rows=4 .* batch.gradient_accumulation_steps={parts}.*{message}"
    with jax.set_mesh(toys.mesh(mesh)), pytest.raises(ValueError, match=words):
        step.split_batch(toys.place(arrays()), parts)


def test_groups_stay_with_their_rows_in_a_microbatch(on_one_device):
    parts = step.split_batch(toys.place(arrays()), 2)
    whole = arrays()
    for part in range(2):
        rows = [part, part + 2]
        np.testing.assert_array_equal(parts.tokens[part], whole["tokens"][rows])
        np.testing.assert_array_equal(parts.valid[part], whole["valid"].reshape(4, 2, 3)[rows].reshape(4, 3))


OTHERS = [pytest.param(rule, marks=pytest.mark.slow) for rule in sorted(optim.RULES) if rule != "adamw"]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["adamw", *OTHERS])
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


def mean(sums_and_weights):
    sums, weights = sums_and_weights
    return sums.sum() / weights.sum()


def test_the_evaluation_step_agrees_with_the_train_step(on_one_device):
    def kl(policy, constant, batch):
        return jnp.where(batch.slots >= 0, 3.0, 0.0)

    eval_step = step.make_eval_step(toys.next_token(), objectives.bind("dpo"), kl)
    state, batch = toys.make_state("dpo"), toys.place(arrays())
    sums = eval_step(state, batch)
    _, metrics = dpo_step()(state, batch)
    assert set(metrics) - {"grad_norm", "learning_rate"} == set(sums) - {"kl"}
    for name in set(sums) - {"kl"}:
        assert sums[name][0].shape == sums[name][1].shape == batch.paired.shape
        np.testing.assert_allclose(mean(sums[name]), metrics[name], rtol=1e-6, atol=1e-6, err_msg=name)
    tokens_of_prompts = np.array([(arrays()["slots"][n // 2] // 3 == n % 2).sum() for n in range(8)])  # three slots each
    np.testing.assert_allclose(sums["kl"], [3.0 * tokens_of_prompts, tokens_of_prompts])


def test_the_evaluation_step_gives_every_device_all_prompts():
    with jax.set_mesh(toys.mesh((2, 2, 1))):
        eval_step = step.make_eval_step(toys.next_token(), objectives.bind("dpo"), lambda *_: jnp.zeros((4, ROW_TOKENS)))
        sums = eval_step(toys.make_state("dpo"), toys.place(arrays()))
    assert all(x.is_fully_replicated for pair in sums.values() for x in pair)


def test_a_metric_that_belongs_to_no_prompt_is_refused(on_one_device):
    def scalar(policy, constant, batch):
        return Terms(batch.reward, batch.valid.astype(jnp.float32), {"odd": (jnp.ones(3), jnp.ones(3))})

    eval_step = step.make_eval_step(toys.next_token(), objectives.plain(scalar), lambda *_: jnp.zeros((4, ROW_TOKENS)))
    with pytest.raises(ValueError, match=r"metric 'odd' has the shape \(3,\); give \[N, ...\] for 8 prompts"):
        eval_step(toys.make_state("dpo"), toys.place(arrays()))


def test_against_the_first_reference_running_statistics_begin_with_the_batch(on_one_device):
    def kl(policy, constant, batch):
        return jnp.zeros(batch.slots.shape)

    eval_step = step.make_eval_step(toys.next_token(), objectives.bind("bco", decay=0.9), kl)
    state, batch = toys.make_state("bco"), toys.place(arrays())
    seen = {"rewards": jnp.float32(3.0), "seen": jnp.float32(0.5)}  # a mean of 6 against the reference that moved
    both = eval_step(state.replace(initial=state.reference, statistics=seen), batch)
    alone = eval_step(state, batch)
    for name in ("loss", "offset", "rewards/chosen"):
        np.testing.assert_allclose(both[f"initial/{name}"], alone[name], rtol=1e-6, err_msg=name)
    assert abs(mean(both["offset"]) - mean(alone["offset"])) > 1


def numpy_kl(params, others, batch):
    """KL(params || others) over all scored tokens, mean, from whole soft-maxes in float64."""

    def log_probs(params):
        outputs = toys.next_token()(params, batch, 0)
        logits = (np.float64(outputs.hidden) @ np.float64(outputs.unembed).T)[:, :-1, : toys.CONFIG.vocab_size]
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    p, q = log_probs(params), log_probs(others)
    return (np.exp(p) * (p - q)).sum(-1)[np.asarray(batch.slots[:, 1:]) >= 0].mean()


def test_the_evaluated_kl_is_that_of_the_policy_from_the_reference(on_one_device):
    # Catches: KL(reference || policy), in the metric or in what the evaluation step hands to it.
    eval_step = step.make_eval_step(toys.next_token(), objectives.bind("dpo"), metrics.kl)
    state, batch = toys.make_state("dpo"), toys.place(arrays())
    forwards, backwards = numpy_kl(state.trainable, state.reference, batch), numpy_kl(state.reference, state.trainable, batch)
    assert abs(forwards - backwards) > 0.01 * forwards
    np.testing.assert_allclose(mean(eval_step(state, batch)["kl"]), forwards, rtol=1e-5)


def test_what_is_measured_against_the_first_reference_is_not_measured_against_the_one_that_moved(on_one_device):
    # Catches: initial/ measured against the moved reference, the other metrics against the first one.
    eval_step = step.make_eval_step(toys.next_token(), objectives.bind("dpo"), metrics.kl)
    state, batch = toys.make_state("dpo"), toys.place(arrays())
    first, moved = state.reference, toys.place_params(toys.params(2))
    both = eval_step(state.replace(reference=moved, initial=first), batch)
    for prefix, alone in (
        ("initial/", eval_step(state.replace(reference=first), batch)),
        ("", eval_step(state.replace(reference=moved), batch)),
    ):
        for name, pair in alone.items():
            np.testing.assert_allclose(both[prefix + name], pair, rtol=1e-6, atol=1e-6, err_msg=prefix + name)
    assert {name for name in ("loss", "kl") if abs(mean(both[name]) - mean(both[f"initial/{name}"])) > 0.1} == {"loss", "kl"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "rows", "microbatches"),
    [
        ((1, 1, 1), 1, 1),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (((1, 1, 1), 2, 2), ((1, 1, 8), 1, 1), ((4, 1, 2), 8, 2))),
    ],
    ids=str,
)
def test_one_row_per_device_gives_the_step_of_any_other_layout(mesh, rows, microbatches):
    # jax 0.12 drops mesh axes of one device from the types of dimensions of size 1: every dimension of a batch is 1 somewhere here.
    groups, plan = toys.groups(8, 5), np.full((rows, 1), -1, np.int32)
    plan[:2] = np.arange(min(rows, 2))[:, None]

    def run(mesh, rows, microbatches):
        batch = pack.assemble(groups, plan[:rows], row_tokens=ROW_TOKENS, share_prompt=True)
        with jax.set_mesh(toys.mesh(mesh)):
            state, metrics = toys.make_step("dpo", microbatches=microbatches)(toys.make_state("dpo"), toys.place(batch))
            return jax.device_get((metrics, state.trainable))

    (metrics, trainable), (expected, other) = run(mesh, rows, microbatches), run((1, 1, 1), min(rows, 2), 1)
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
@pytest.mark.parametrize("remat", [pytest.param("none", marks=pytest.mark.slow), "full"])
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

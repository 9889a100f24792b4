"""Reference rules: when and how the reference moves, and what must not differ whether its weights or only its log-probs are there."""

import functools
import json
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import light
import numpy as np
import optax
import pytest
import toys

from jaxalign import objectives
from jaxalign.data.rows import pack
from jaxalign.rollout import source
from jaxalign.training import reference, step
from jaxalign.types import Batch, Outputs, Terms

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "vectors-tr-ift.json").read_text())
OPTIMIZED = True  # bits of different programs are compared
PLAN = np.arange(8, dtype=np.int32).reshape(4, 2)
FIRST_LOSS = {"dpo": np.log(2.0), "ipo": 1 / (4 * 0.1**2), "kto": 0.5}  # where policy and reference are equal


@pytest.fixture(autouse=True)
def on_one_device():
    with jax.set_mesh(toys.mesh()):
        yield


def test_soft_updates_come_out_as_in_the_golden_file():
    given, expected = (GOLDEN["T1_ref_update"][key] for key in ("inputs", "expected"))
    policy, ref = (jnp.array(given[key], jnp.float32) for key in ("policy", "ref0"))
    for count, after in enumerate(expected["soft_after_each_update"], 1):
        ref = reference.soft(ref, policy, count, alpha=given["alpha_soft"], every_steps=1)
        np.testing.assert_allclose(ref, after, rtol=1e-6)
    start = jnp.zeros(3)
    np.testing.assert_array_equal(reference.hard(start, policy, 1, every_steps=1), expected["hard_alpha1_after_one_update"])
    np.testing.assert_array_equal(reference.soft(start, policy, 1, alpha=0.0, every_steps=1), expected["alpha0_after_one_update"])


def test_a_soft_update_too_small_for_bfloat16_is_not_lost():
    given, expected = (GOLDEN["T5_numerics_lora"][key] for key in ("inputs", "expected"))
    ref, policy = jnp.float32(given["bf16_ref"]), jnp.float32(given["fp32_policy"])
    moved = reference.soft(ref, policy, 1, alpha=given["alpha_bf16"], every_steps=1)
    np.testing.assert_allclose(moved, expected["fp32_soft_update"], rtol=1e-7)
    np.testing.assert_allclose(moved - ref, expected["fp32_change"], rtol=1e-4)  # a bit of float32 is 5e-5 of it


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_every_microbatch_of_a_step_sees_the_reference_of_the_golden_schedule(kind):
    given, expected = (GOLDEN["T2_schedule"][key] for key in ("inputs", "expected"))
    hparams = {"soft": {"alpha": given["alpha_soft"]}, "hard": {}}[kind] | {"every_steps": given["tau"]}
    rule = reference.RULES[kind].bind(**hparams)
    seen = tabular(count_up, rule, optax.sgd(-1.0), microbatches=given["grad_accum"])
    state, history = seen["state"], []
    for _ in range(given["n_optimizer_steps"]):
        state, metrics = seen["step"](state, seen["batch"])
        history.append([float(metrics["policy"]), float(metrics["reference"]), float(state.reference["logits"])])
    both = np.array(expected[f"{kind}_[policy,ref]_seen_by_each_microbatch"])[:: given["grad_accum"]]
    np.testing.assert_allclose(np.array(history)[:, :2], both, rtol=1e-6)
    np.testing.assert_allclose(np.array(history)[:, 2], expected[f"{kind}_ref_after_each_optimizer_step"], rtol=1e-6)


def count_up(policy, constant, batch):
    """An objective whose gradient is 1: the policy is the number of steps."""
    loss = policy.logps[:, 0]
    ones = jnp.ones_like(loss)
    return Terms(loss, ones, {"policy": (loss, ones), "reference": (constant.logps[:, 0], ones)})


def tabular(objective, rule, optimizer, *, start=0.0, microbatches=1):
    """A policy over single tokens whose parameters are its log-probs (count_up) or logits, through the real step."""

    def forward(params, batch, step):
        logits = jnp.atleast_1d(params["logits"])
        logps = jax.nn.log_softmax(logits) if logits.size > 1 else logits
        picked = jnp.einsum("rtv,v->rt", jax.nn.one_hot(batch.tokens, logits.size), logps)
        return Outputs(picked)

    tokens = np.array([[0, 2 if np.size(start) > 1 else 0]] * microbatches, np.int32)
    zeros, valid = np.zeros_like(tokens), np.ones((microbatches, 2), bool)
    arrays = {"tokens": tokens, "positions": zeros, "segments": zeros + 1, "prefixes": zeros, "slots": zeros + np.arange(2, dtype=np.int32)}
    batch = toys.place({**arrays, "reward": valid.astype(np.float32), "paired": valid[:, 0], "valid": valid, "columns": {}})
    params = {"logits": jax.device_put(np.asarray(start, np.float32), toys.sharding.named(toys.sharding.spec(*[None] * np.ndim(start))))}
    state = step.init_state(params, optimizer, rule=reference.RULES["frozen"], seed=0)
    bound = objectives.plain(objective)
    made = step.make_train_step(forward, bound, rule, optimizer, optax.constant_schedule(0.0), microbatches=microbatches)
    return {"state": state, "batch": batch, "step": made}


RULES = {
    "frozen": reference.frozen,
    "hard_tau2": functools.partial(reference.hard, every_steps=2),
    "soft_a0.6_tau1": functools.partial(reference.soft, alpha=0.6, every_steps=1),
    "soft_a0.6_tau2": functools.partial(reference.soft, alpha=0.6, every_steps=2),
}


@pytest.mark.parametrize("case", sorted(GOLDEN["T4_tabular_trace"]["expected"]))
def test_a_policy_over_four_answers_follows_the_golden_trace(case):
    given, expected = GOLDEN["T4_tabular_trace"]["inputs"], GOLDEN["T4_tabular_trace"]["expected"][case]
    name, rule = case.split("_", 1)
    hparams = {"dpo": {"beta": given["beta"]}, "ipo": {"tau": given["beta"], "length_normalised": False}}[name]
    objective = functools.partial(objectives.named(name)[0], **hparams)
    made = tabular(objective, RULES[rule], optax.sgd(given[f"lr_{name}"]), start=given["logits0=ref0"])
    state, losses = made["state"], []
    for _ in range(given["n_steps"]):
        state, metrics = made["step"](state, made["batch"])
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, expected["loss_before_each_step"], rtol=1e-6)
    np.testing.assert_allclose(state.trainable["logits"], expected["final_logits"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(state.reference["logits"], expected["final_ref_logits"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(jax.nn.softmax(state.trainable["logits"]), expected["final_probs"], rtol=1e-6)


@functools.cache
def arrays(number):
    return pack.assemble(toys.groups(8, seed=10 + number), PLAN, row_tokens=80, share_prompt=True)


def run(name, rule, *, kind="frozen", steps=5, every=None):
    """(losses, state) of some steps on different batches; with `every` the source adds the policy's log-probs."""
    optimizer, look = toys.keep_gradient(0.01), light.next_token
    made = step.make_train_step(look, objectives.bind(name), rule, optimizer, optax.constant_schedule(0.01))
    dataset = grain.MapDataset.range(steps).map(arrays)
    options = {"policy_logps": step.make_policy_logps(look), "column": reference.COLUMN, "every": every}
    batches = source.PolicyLogps(dataset, 0, **options) if every else source.Rows(dataset, 0)
    carried = {"source": functools.partial(source.PolicyLogps.carried, every, 4, 80)} if every else {}
    state = step.init_state(
        light.params(0), optimizer, rule=reference.RULES[kind], seed=0, statistics=toys.statistics(name), **carried
    )
    losses = []
    for number in range(steps):
        state, _, batch = batches.next(state, number)
        state, metrics = made(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state)


@functools.cache
def frozen_run():
    return run("dpo", reference.frozen)


def test_alpha_0_is_the_frozen_reference_bit_for_bit():
    losses, state = run("dpo", functools.partial(reference.soft, alpha=0.0, every_steps=1))
    assert losses == frozen_run()[0]
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(frozen_run()[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@functools.cache
def hard_run(name):
    return run(name, functools.partial(reference.hard, every_steps=2))


@pytest.mark.parametrize("name", ["dpo", *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(FIRST_LOSS) if name != "dpo")])
def test_the_first_loss_after_every_hard_move_is_that_of_equal_models(name):
    losses, _ = hard_run(name)
    np.testing.assert_allclose(losses[::2], FIRST_LOSS[name], rtol=1e-6)
    assert all(abs(loss - FIRST_LOSS[name]) > 1e-5 for loss in losses[1::2])


def test_a_table_of_log_probs_equals_the_reference_that_moves():
    losses, state = run("dpo", reference.hard_table, kind="hard_table", every=2)
    np.testing.assert_allclose(losses, hard_run("dpo")[0], rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(state.trainable), jax.tree.leaves(hard_run("dpo")[1].trainable), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert state.source["logps"].shape == (2, 4, 80) and state.reference is None  # no weights


def test_a_column_of_log_probs_equals_the_frozen_reference():
    params, first, optimizer = light.params(0), light.params(0), toys.keep_gradient(0.01)
    made = step.make_train_step(light.next_token, objectives.bind("dpo"), reference.precomputed, optimizer, optax.constant_schedule(0.01))
    look = jax.jit(lambda batch: light.next_token(first, batch, 0).logps)
    state, losses = step.init_state(params, optimizer, rule=reference.RULES["precomputed"], seed=0), []
    for number in range(5):
        batch: Batch = toys.place(arrays(number))
        columns = batch.columns | {reference.COLUMN: look(batch)}
        state, metrics = made(state, batch.replace(columns=columns))
        losses.append(float(metrics["loss"]))
    assert state.reference is None
    np.testing.assert_allclose(losses, frozen_run()[0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [pytest.param((8, 1, 1), marks=pytest.mark.slow), (2, 2, 2)], ids=str)
def test_a_moved_reference_is_the_same_on_a_mesh(mesh):
    def two_steps():
        rule, optimizer = functools.partial(reference.soft, alpha=0.6, every_steps=1), toys.keep_gradient()
        made = step.make_train_step(light.next_token, objectives.bind("dpo"), rule, optimizer, optax.constant_schedule(0.1))
        state = step.init_state(light.params(0), optimizer, rule=reference.RULES["soft"], seed=0, keep_initial=True)
        layout = jax.tree.map(lambda x: x.sharding, state)
        whole = pack.assemble(toys.groups(8, seed=1), np.arange(8, dtype=np.int32)[:, None], row_tokens=80, share_prompt=True)
        for _ in range(2):
            state, _ = made(state, toys.place(whole))
        same = jax.tree.map(lambda x, where: x.sharding.is_equivalent_to(where, x.ndim), state, layout)
        assert all(jax.tree.leaves(same))
        return jax.device_get((state.reference, state.initial))

    expected = two_steps()
    with jax.set_mesh(toys.mesh(mesh)):
        ours = two_steps()
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(ValueError, match=rf"reference.alpha={alpha} is not in \[0, 1\]"):
        reference.soft({}, {}, 1, alpha=alpha, every_steps=1)

"""Advantages against published numbers, closed forms and a plain loop; and that packing, padding and filler change nothing."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign.data.rows import pack
from jaxalign.objectives.families import kl_estimates
from jaxalign.rollout import advantages
from jaxalign.types import Batch

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "vectors-policy-gradient.json").read_text())
VECTORS = {case["id"]: (case["inputs"], case["expected"]) for case in GOLDEN["cases"]}


def batch(slots, *, valid=None):
    """Rows of these slots; positions count along the row."""
    slots = jnp.asarray(slots, jnp.int32)
    count = int(slots.max()) + 1
    zeros = jnp.zeros_like(slots)
    valid = jnp.ones((len(slots), count), bool) if valid is None else jnp.asarray(valid)
    positions = jnp.broadcast_to(jnp.arange(slots.shape[1]), slots.shape).astype(jnp.int32)
    paired = jnp.zeros(len(valid), bool)
    return Batch(zeros, positions, zeros + 1, zeros, slots, valid.astype(jnp.float32), paired, valid)


def masked(case):
    """(arrays by name, the batch of the case): its padding is not scored."""
    given, expected = VECTORS[case]
    mask = np.array(given["mask"]) > 0
    return (
        {name: jnp.asarray(value, jnp.float32) for name, value in given.items() if not isinstance(value, dict)},
        expected,
        batch(np.where(mask, 0, -1)),
    )


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_the_golden_estimates_come_out(name):
    given, expected, _ = masked("P1")
    np.testing.assert_allclose(kl_estimates.ESTIMATES[name](given["logp"], given["ref_logp"]), expected[name], rtol=2e-5, atol=2e-6)


def test_the_golden_token_rewards_come_out():
    given, expected, data = masked("P1")
    kl = kl_estimates.k1(given["logp"], given["ref_logp"])
    rewards = advantages.token_rewards(given["score"][:, None], kl, data, beta=0.05)
    np.testing.assert_allclose(rewards, expected["token_rewards_k1"], rtol=2e-5, atol=2e-6)
    whole = advantages.with_kl(given["score"][:, None], kl, data, beta=0.05)
    np.testing.assert_allclose(whole.mean(), expected["rlhf_reward_mean"], rtol=2e-5)
    np.testing.assert_allclose(whole[:, 0], rewards.sum(1), rtol=1e-6)


@pytest.mark.parametrize(("gamma", "key"), [(1.0, "adv_gamma1"), (0.99, "adv_gamma0_99")])
def test_the_golden_advantages_and_their_whitening_come_out(gamma, key):
    given, expected, data = masked("P2")
    found, returns = advantages.gae(given["rewards"], given["values"], data, gamma=gamma, lam=0.95)
    np.testing.assert_allclose(found, expected[key], rtol=2e-5, atol=2e-6)
    if gamma == 1:
        np.testing.assert_allclose(returns, expected["returns_gamma1"], rtol=2e-5, atol=2e-6)
        white = advantages.whiten(found, data.slots >= 0)
        np.testing.assert_allclose(white, expected["whitened_adv_gamma1"], rtol=2e-5, atol=2e-6)


def test_advantages_begin_anew_at_every_response_and_pass_over_what_is_not_scored():
    draw = np.random.default_rng(0)
    slots = np.array([[-1, 0, 0, -1, 0, 1, 1, -1, -1, 2], [-1, -1, 0, 1, 2, 2, 2, 2, -1, -1]])
    rewards, values = draw.normal(size=(2, *slots.shape)).astype(np.float32)
    found, returns = advantages.gae(jnp.asarray(rewards), jnp.asarray(values), batch(slots), gamma=0.9, lam=0.8)
    expected = np.zeros(slots.shape)
    for row, slot in [(row, slot) for row in range(2) for slot in range(3)]:
        after = value_after = 0.0
        for t in reversed(np.flatnonzero(slots[row] == slot)):
            delta = rewards[row, t] + 0.9 * value_after - values[row, t]
            after = expected[row, t] = delta + 0.9 * 0.8 * after
            value_after = values[row, t]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(returns, np.where(slots >= 0, expected + values, 0), rtol=1e-5, atol=1e-6)


def test_the_whole_return_less_the_value_is_the_advantage_at_lambda_one():
    slots = np.array([[-1, 0, 0, 1, 1, 1]])
    rewards, values = np.random.default_rng(1).normal(size=(2, 1, 6)).astype(np.float32)
    found, returns = advantages.gae(jnp.asarray(rewards), jnp.asarray(values), batch(slots), gamma=1.0, lam=1.0)
    to_go = [0, rewards[0, 1:3].sum(), rewards[0, 2], rewards[0, 3:].sum(), rewards[0, 4:].sum(), rewards[0, 5]]
    np.testing.assert_allclose(returns[0], to_go, rtol=1e-5)
    np.testing.assert_allclose(found[0, 1:], to_go[1:] - values[0, 1:], rtol=1e-5)


def test_the_reward_stands_at_the_last_token_of_its_own_response_and_faulty_ones_are_left_out():
    data = batch([[-1, 0, 0, 1, -1, 1]], valid=[[True, False]])
    rewards = advantages.token_rewards(jnp.array([[2.0, jnp.nan]]), jnp.ones((1, 6)), data, beta=0.5)
    np.testing.assert_allclose(rewards, [[0, -0.5, 1.5, -0.5, 0, -0.5]])


@pytest.mark.parametrize(
    ("baseline", "scale", "expected"),
    [
        ("mean", "none", [-2.0, 0.0, 2.0]),
        ("leave_one_out", "none", [-3.0, 0.0, 3.0]),
        ("none", "none", [1.0, 3.0, 5.0]),
        ("mean", "std", np.array([-2.0, 0.0, 2.0]) / (2 + 1e-4)),
    ],
)
def test_a_group_is_compared_with_itself(baseline, scale, expected):
    rewards = jnp.array([[1.0, 3.0, 5.0, jnp.nan]])
    valid = jnp.array([[True, True, True, False]])
    found = advantages.group_advantage(rewards, valid, baseline=baseline, scale=scale)
    np.testing.assert_allclose(found, [[*expected, 0.0]], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["std", "none"])
def test_groups_without_a_comparison_have_no_advantage(baseline, scale):
    rewards = jnp.array([[7.0, 1.0], [0.3, 0.3], [1.0, 2.0]])  # one response, equal rewards, none valid
    valid = jnp.array([[True, False], [True, True], [False, False]])
    np.testing.assert_allclose(advantages.group_advantage(rewards, valid, baseline=baseline, scale=scale), np.zeros((3, 2)), atol=1e-6)


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["std", "none"])
def test_equal_rewards_of_any_size_have_exactly_no_advantage(baseline, scale):
    rewards = jnp.array([[1234.567] * 6 + [jnp.nan], [-0.1] * 7, [3e30] * 7], jnp.float32)
    found = advantages.group_advantage(rewards, ~jnp.isnan(rewards), baseline=baseline, scale=scale)
    np.testing.assert_array_equal(found, jnp.zeros((3, 7)))


def test_a_scale_without_a_baseline_is_refused():
    with pytest.raises(ValueError, match="scale='std' with baseline='none' divides by almost 0 where rewards are equal"):
        advantages.group_advantage(jnp.ones((1, 4)), jnp.ones((1, 4), bool), baseline="none", scale="std")


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match="leave_one_out"):
        advantages.group_advantage(jnp.ones((1, 2)), jnp.ones((1, 2), bool), baseline="loo")


def test_whitening_takes_the_whole_mask_and_survives_one_number():
    x, mask = jnp.array([[1.0, 2.0, jnp.inf], [4.0, 9.0, 0.0]]), jnp.array([[True, True, False], [True, False, False]])
    white = np.asarray(advantages.whiten(x, mask))
    kept = np.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(white[np.asarray(mask)], (kept - kept.mean()) / kept.std(ddof=1), rtol=1e-6)
    assert not white[~np.asarray(mask)].any()
    assert not advantages.whiten(x, jnp.zeros_like(mask).at[0, 1].set(True)).any()


def test_estimates_stay_finite_far_from_the_reference():
    far = jnp.array([-300.0, 300.0])
    assert all(np.isfinite(estimate(far, jnp.zeros(2))).all() for estimate in kl_estimates.ESTIMATES.values())


@pytest.mark.slow
def test_meshes_agree_on_advantages():
    plan = np.array([[0, 1], [2, -1], [3, 4], [-1, 5], [6, 7], [8, 9], [-1, -1], [10, 11]], np.int32)
    arrays = pack.assemble(toys.groups(12, seed=3), plan, row_tokens=80, share_prompt=True)

    @jax.jit
    def run(data):
        rewards, kl = data.columns["advantage"], data.columns["rollout_logps"]
        shaped = advantages.token_rewards(rewards, kl, data, beta=0.1)
        found, returns = advantages.gae(shaped, data.columns["rollout_values"], data, gamma=0.9, lam=0.9)
        groups = advantages.group_advantage(advantages.with_kl(rewards, kl, data, beta=0.1), data.valid)
        return advantages.whiten(found, data.slots >= 0), returns, groups

    results = []
    for shape in ((1, 1, 1), (2, 2, 2)):
        with jax.set_mesh(toys.mesh(shape)):
            results.append(jax.device_get(run(toys.place(arrays))))
    for one, other in zip(*results, strict=True):
        assert np.abs(one).max() > 0.5
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

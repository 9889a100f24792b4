"""The states and cosines of goal_reward: golden losses, gradient and places, and that they are drawn as described."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.objectives.families import goals
from jaxalign.types import Batch

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "vectors-goal-feature.json").read_text())["cases"]
G1, G2 = GOLDEN["G1"], GOLDEN["G2"]
ALL = (jnp.ones((1, 1, 1), bool),) * 2


def drawn(response, place):
    return jnp.asarray(G1["inputs"][f"h_{response}"], jnp.float32)[:, jnp.asarray(G1["inputs"][place][0])]


def golden_cosines(average):
    source, goal, from_chosen, from_rejected = (
        drawn(*of) for of in (("chosen", "src"), ("chosen", "goal"), ("chosen", "src_neg"), ("rejected", "goal_neg"))
    )
    if average:
        goal, from_rejected = goal.mean(1, keepdims=True), from_rejected.mean(1, keepdims=True)
    return goals.cosines(source, goal), goals.cosines(from_chosen, from_rejected)


@pytest.mark.parametrize(("average", "name"), [(False, "all_pairs"), (True, "avg_goal")])
def test_the_golden_cosines_and_losses(average, name):
    expected = G1["expected"][name]
    positive, negative = golden_cosines(average)
    np.testing.assert_allclose(positive, expected["cos_pos"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(negative, expected["cos_neg"], rtol=1e-6, atol=1e-7)
    for reduction, key in (("log_of_mean", "loss_mean_sigmoid"), ("mean_of_log", "loss_pair_bce")):
        np.testing.assert_allclose(goals.contrast(positive, negative, ALL, reduction=reduction), [expected[key]], rtol=1e-6)


def test_the_golden_gradient():
    def loss(chosen):
        def take(place):
            return chosen[:, jnp.asarray(G1["inputs"][place][0])]

        positive, negative = goals.cosines(take("src"), take("goal")), goals.cosines(take("src_neg"), drawn("rejected", "goal_neg"))
        return goals.contrast(positive, negative, ALL, reduction="log_of_mean").sum()

    gradient = jax.jit(jax.grad(loss))(jnp.asarray(G1["inputs"]["h_chosen"], jnp.float32))
    np.testing.assert_allclose(gradient, G1["expected"]["grad_h_pos_all_pairs_mean_sigmoid"], rtol=1e-5, atol=1e-6)


def test_the_loss_lies_between_its_bounds():
    one = jnp.ones((1, 2, 2))
    np.testing.assert_allclose(goals.contrast(one, -one, ALL, reduction="log_of_mean"), [G1["expected"]["min_possible_loss"]], rtol=1e-6)
    np.testing.assert_allclose(goals.contrast(0 * one, 0 * one, ALL, reduction="mean_of_log"), [2 * np.log(2)], rtol=1e-6)


def test_the_loss_over_a_batch_is_the_log_of_its_mean_and_so_is_its_gradient():
    draw = np.random.default_rng(0)
    cosines, weight = (jnp.asarray(draw.uniform(-1, 1, shape), jnp.float32) for shape in ((2, 5, 3, 3), (5,)))
    weight = weight.at[2].set(0.0) ** 2

    def mean(x):
        return (x * weight).sum() / weight.sum()

    def of_the_mean(cosines):
        return -sum(jnp.log(mean(share)) for share in goals.shares(*cosines, ALL))

    def of_groups(cosines):
        known = {name: jax.lax.stop_gradient(mean(x)) for name, (x, _) in goals.statistics(*cosines, ALL, weight=weight).items()}
        return mean(goals.contrast(*cosines, ALL, reduction="log_of_batch_mean", statistics=known))

    both = (jax.jit(jax.value_and_grad(of))(cosines) for of in (of_groups, of_the_mean))
    for ours, expected in zip(*both, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


def test_only_pairs_that_are_kept_count():
    positive, negative = golden_cosines(average=False)
    kept = jnp.eye(2, dtype=bool)[None], jnp.ones((1, 2, 2), bool)
    expected = np.logaddexp(0, -np.diag(positive[0])).mean() + np.logaddexp(0, negative[0]).mean()
    np.testing.assert_allclose(goals.contrast(positive, negative, kept, reduction="mean_of_log"), [expected], rtol=1e-6)


def test_a_state_of_zeros_has_the_cosine_zero_and_a_finite_gradient():
    value, gradient = jax.value_and_grad(lambda x: goals.cosines(x, jnp.ones((1, 1, 3))).sum())(jnp.zeros((1, 1, 3)))
    assert value == 0
    assert np.isfinite(gradient).all()


def test_the_golden_places():
    pairs, length = np.sort(np.array(G2["inputs"]["uniform_pairs"]), axis=1), jnp.asarray(G2["inputs"]["num_actions"])
    early, late = (jnp.asarray(pairs[:, i], jnp.float32) for i in (0, 1))
    np.testing.assert_array_equal(-goals.offsets(early, length, 0.0), G2["expected"]["source_index_from_end"])
    np.testing.assert_array_equal(-goals.offsets(late, length, 0.0), G2["expected"]["goal_index_from_end"])
    np.testing.assert_array_equal(-goals.offsets(early, length, 0.5), G2["expected"]["source_index_from_end_pct_0_5"])


def test_places_reach_from_the_last_token_to_the_first_and_nowhere_else():
    numbers = jnp.linspace(0, 1, 1001)[None, :-1]
    assert set(np.unique(goals.offsets(numbers, jnp.array([5.0]), 0.0))) == {1, 2, 3, 4, 5}
    assert set(np.unique(goals.offsets(numbers, jnp.array([10.0]), 0.7))) == {8, 9, 10}
    assert set(np.unique(goals.offsets(numbers, jnp.array([0.0]), 0.0))) == {0}


def batch(slots, valid):
    slots = jnp.asarray(slots, jnp.int32)
    order = jnp.broadcast_to(jnp.arange(slots.shape[1]), slots.shape).astype(jnp.int32)
    valid = jnp.asarray(valid)
    return Batch(order + 7, order, jnp.ones_like(slots), jnp.zeros_like(slots), slots, 1.0 * valid, valid.all(1), valid)


def test_states_are_those_of_the_places_of_a_response():
    of = batch([[-1, 0, 0, -1, 1, 0, -1, 2, 3, 3]], [[True, True], [True, True]])
    np.testing.assert_array_equal(goals.ranks(of), [[0, 3, 2, 0, 1, 1, 0, 1, 2, 1]])
    hidden = jnp.arange(20.0).reshape(1, 10, 2)
    found = goals.states(hidden, of, jnp.zeros(2, jnp.int32), jnp.array([[1, 3, 2], [1, 0, 2]]))
    np.testing.assert_array_equal(found, np.stack([hidden[0, [5, 1, 2]], np.array([[14, 15], [0, 0], [0, 0]])]))
    np.testing.assert_array_equal(goals.states(hidden, of, jnp.ones(2, jnp.int32), jnp.array([[1], [2]])), hidden[0, [4, 8]][:, None])


def test_the_numbers_are_uniform_and_belong_to_content_seed_and_step():
    contents = jnp.arange(400, dtype=jnp.uint32)
    numbers = np.asarray(goals.uniform(contents, 50, seed=0, step=3))
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - numbers.size / 20) ** 2 / (numbers.size / 20)).sum() < 43.8  # 0.1 % of chi-square with 19 degrees of freedom
    assert abs(np.corrcoef(numbers.T)[np.triu_indices(50, 1)]).max() < 0.25
    assert abs(np.corrcoef(numbers)[np.triu_indices(100, 1)].mean()) < 0.01
    np.testing.assert_array_equal(goals.uniform(contents[:7], 50, seed=0, step=3), numbers[:7])
    for other in ({"seed": 1, "step": 3}, {"seed": 0, "step": 4}):
        assert abs(np.corrcoef(numbers.ravel(), np.asarray(goals.uniform(contents, 50, **other)).ravel())[0, 1]) < 0.03


def test_content_is_that_of_tokens_and_positions():
    of = batch([[-1, 0, 0, 1, 1]], [[True, True]])
    names = np.asarray(goals.contents(of))
    assert names[0, 0] != names[0, 1]
    moved = of.replace(positions=of.positions + 1)
    assert (np.asarray(goals.contents(moved)) != names).all()
    other = of.replace(tokens=of.tokens.at[0, 0].set(3))
    np.testing.assert_array_equal(goals.contents(other), names)
    swapped = of.replace(tokens=of.tokens.at[0, 1:3].set(of.tokens[0, 2:0:-1]))
    assert goals.contents(swapped)[0, 0] != names[0, 0]

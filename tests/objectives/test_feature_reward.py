"""A reward head on features: the golden numbers, its shape constraints, its members and baselines, and what it refuses."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
from losses import batch
import numpy as np
import pytest
import toys

from jaxalign import objectives
from jaxalign.models import model as models
from jaxalign.models.features import Feature, FeatureHeadConfig, combined, head_of
from jaxalign.types import Features, Outputs

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "vectors-goal-feature.json").read_text())["cases"]["F1"]
GIVEN, EXPECTED = GOLDEN["inputs"], GOLDEN["expected"]
PAIRS = np.stack([GIVEN["preferred"], GIVEN["dispreferred"]], axis=1).astype(np.float32)  # [N, 2, F]
SEVEN = {f"feature_{i}": {"range": (0, 5)} for i in range(7)}


def built(**options):
    return models.build(toys.CONFIG, reward_head=FeatureHeadConfig.of({"features": SEVEN, **options}))


def linear():
    layer = {"kernel": np.reshape(GIVEN["linear_w"], (1, 7, 1)), "bias": np.reshape(GIVEN["linear_b"], (1, 1))}
    return built(), {"layer_0": layer}


def mlp():
    first = {"kernel": np.transpose(GIVEN["mlp_W1"])[None], "bias": np.reshape(GIVEN["mlp_b1"], (1, 2))}
    second = {"kernel": np.reshape(GIVEN["mlp_W2"], (1, 2, 1)), "bias": np.reshape(GIVEN["mlp_b2"], (1, 1))}
    return built(hidden=[2], activation="relu"), {"layer_0": first, "layer_1": second}


def params_of(head):
    return {models.REWARD_HEAD: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), head)}


def outputs(model, params, values=PAIRS):
    rewards, members, features = models.feature_rewards(model, params, jnp.asarray(values))
    names, directions = model.features.names, tuple(feature.direction for feature in model.features.features)
    return Outputs(jnp.zeros((len(values), 2)), rewards=rewards, features=Features(features, members, names, directions))


def terms_of(model, params, values=PAIRS):
    of = batch(len(values), reward=np.tile([1.0, 0.0], (len(values), 1)))
    return objectives.bind("feature_reward").terms(outputs(model, params, values), None, of, {})


def drawn(model, seed=0):
    """Random parameters of the head on one device."""
    with jax.set_mesh(toys.mesh()):
        return models.init_heads(model, jax.random.key(seed))


@pytest.mark.parametrize(("make", "name"), [(linear, "linear"), (mlp, "mlp")])
def test_the_golden_rewards_and_loss(make, name):
    model, head = make()
    rewards = models.feature_rewards(model, params_of(head), jnp.asarray(PAIRS))[0]
    np.testing.assert_allclose(rewards[:, 0], EXPECTED[f"{name}_raw_preferred"], rtol=1e-6)
    np.testing.assert_allclose(rewards[:, 1], EXPECTED[f"{name}_raw_dispreferred"], rtol=1e-6)
    np.testing.assert_allclose(terms_of(model, params_of(head)).loss.mean(), EXPECTED[f"{name}_loss"], rtol=1e-6)


def test_the_golden_gradient_and_reward_of_a_policy():
    model, head = linear()
    gradient = jax.grad(lambda params: terms_of(model, params).loss.mean())(params_of(head))[models.REWARD_HEAD]["layer_0"]["kernel"]
    np.testing.assert_allclose(gradient.ravel(), EXPECTED["linear_grad_w"], rtol=1e-5, atol=1e-7)
    rewards = models.feature_rewards(model, params_of(head), jnp.asarray(PAIRS))[0]
    np.testing.assert_allclose(jax.nn.sigmoid(rewards[:, 0]), EXPECTED["linear_policy_reward_preferred"], rtol=1e-6)


def test_the_baselines_are_the_accuracies_of_the_features():
    metrics = terms_of(*(lambda model, head: (model, params_of(head)))(*linear())).metrics
    means = np.stack([EXPECTED["naive_mean_preferred"], EXPECTED["naive_mean_dispreferred"]], axis=1)
    np.testing.assert_allclose(PAIRS.mean(2) / 5, means, rtol=1e-6)
    value, weight = (np.asarray(x) for x in metrics["plain_mean"])
    np.testing.assert_array_equal(value[weight > 0], means[:, 0] > means[:, 1])
    for i in range(7):
        value, weight = (np.asarray(x) for x in metrics[f"features/feature_{i}"])
        np.testing.assert_array_equal(value[weight > 0], (1 + np.sign(PAIRS[:, 0, i] - PAIRS[:, 1, i])) / 2)


def test_less_is_better_turns_the_baselines_round_and_an_unknown_direction_has_no_part_in_the_mean():
    directions = {"a": {"direction": -1}, "b": {"direction": 0}, "c": {}}
    model = models.build(toys.CONFIG, reward_head=FeatureHeadConfig.of({"features": directions}))
    values = np.array([[[0.2, 0.0, 0.5], [0.9, 1.0, 0.6]]], np.float32)
    metrics = terms_of(model, drawn(model), values).metrics
    right = {name: float(metrics[name][0][0, 0, 1]) for name in ("features/a", "features/b", "features/c", "plain_mean")}
    assert right == {"features/a": 1.0, "features/b": 0.0, "features/c": 0.0, "plain_mean": 1.0}


def test_a_monotone_reward_follows_every_direction():
    features = {"up": {"range": (0, 2)}, "down": {"direction": -1}, "free": {"direction": 0}}
    options = {"features": features, "hidden": [4, 3], "monotone": True, "members": 2}
    model = models.build(toys.CONFIG, reward_head=FeatureHeadConfig.of(options))
    params = jax.tree.map(lambda x: 3 * x, drawn(model))
    values = jnp.asarray(np.random.default_rng(0).random((50, 1, 3)), jnp.float32)
    slopes = jax.jit(jax.grad(lambda x: models.feature_rewards(model, params, x)[1].sum()))(values)
    assert (slopes[..., 0] > 0).all()
    assert (slopes[..., 1] < 0).all()
    free = models.feature_rewards(model, params, values.at[..., :2].set(0.0))[1]
    assert len(np.unique(np.sign(np.diff(free[:, 0], axis=0)))) == 2  # of random numbers, up and down


def test_members_differ_are_trained_by_their_own_rewards_and_lower_the_reward_where_they_disagree():
    model = built(members=3, pessimism=2.0, hidden=[4])
    params = drawn(model)
    rewards, members, _ = models.feature_rewards(model, params, jnp.asarray(PAIRS))
    np.testing.assert_allclose(rewards, np.mean(members, -1) - 2 * np.std(members, -1), rtol=1e-5)
    margins = np.asarray(members[:, 0] - members[:, 1])
    assert len(np.unique(margins[0])) == 3
    np.testing.assert_allclose(terms_of(model, params).loss, np.logaddexp(0, -margins).mean(1), rtol=1e-5)
    np.testing.assert_allclose(combined(members, 0.0), members.mean(-1))


def test_a_head_is_what_its_record_says():
    head = FeatureHeadConfig.of({"features": SEVEN | {"length": {"direction": 0, "of": "length"}}, "hidden": [3], "members": 2})
    assert head_of(json.loads(json.dumps(head.record()))) == head
    assert head.features[7] == Feature("length", direction=0, of="length")
    assert head_of("linear") == "linear"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": {}}, "features={}; write dict"),
        ({"features": {"a": 5}}, "write dict"),
        ({"features": {"a": {"rnage": (0, 5)}}}, "features.a: unknown key 'rnage'; there are name, range"),
        ({"features": {"a": {"range": (5, 0)}}}, r"'a': range=\(5.0, 0.0\) must go from a smaller"),
        ({"features": {"a": {"direction": 2}}}, "direction=2 is not 1"),
        ({"features": {"a": {}}, "hidden": [0]}, r"hidden=\(0,\)"),
        ({"features": {"a": {}}, "activation": "swish"}, "'swish' is not one of tanh"),
        ({"features": {"a": {}}, "pessimism": 1.0}, "needs members=2"),
        ({"features": {"a": {}}, "members": "3"}, "members='3' is str, not int"),
        ({"features": {"a": {"range": (None, 1)}}}, r"feature 'a': range=\(None, 1\) must be two numbers"),
        ({"features": {"a": {"range": (0,)}}}, "feature 'a': range=.* must be two numbers"),
        ({"features": {"a": {}}, "members": 2, "pessimism": float("inf")}, "pessimism=inf must be >= 0"),
        ({"features": {"a": {}}, "members": 5, "pessimism": 0.6, "monotone": True}, "set pessimism to at most 0.5"),
    ],
)
def test_what_is_no_head_on_features_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FeatureHeadConfig.of(options)


def test_an_objective_without_the_head_says_how_to_get_one():
    with pytest.raises(ValueError, match="set model.reward_head=dict"):
        objectives.bind("feature_reward").terms(Outputs(jnp.zeros((1, 2)), rewards=jnp.zeros((1, 2))), None, batch(1), {})

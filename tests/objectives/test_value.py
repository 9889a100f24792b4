"""The objective of the value head: the golden head, the mean of rewards as its optimum, and what it refuses."""

import jax
import jax.numpy as jnp
from modpo_vectors import CASES, responses
import numpy as np
import pytest
import toys

from jaxalign import sharding
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig
from jaxalign.models.heads import ValueHeadConfig
from jaxalign.types import Outputs


def golden_value(mask):
    """(value, mean squared error) of the golden head on the prompt tokens that the mask keeps."""
    given, _ = CASES["alol_9_value_head"]
    config = ModelConfig(family="llama", vocab_size=8, width=2, layers=1, heads=1, kv_heads=1, head_dim=2, mlp_width=4, max_positions=8)
    model = models.build(config, ValueHeadConfig(max_value=given["max_value"], heads=1))
    eye, zeros = np.eye(2, dtype=np.float32), np.zeros((1, 2), np.float32)
    head = {
        "query": given["query"],
        "q": {"kernel": eye[:, None], "bias": zeros},
        "k": {"kernel": eye[:, None]},
        "v": {"kernel": eye[:, None], "bias": zeros},
        "output": {"kernel": eye[None], "bias": zeros[0]},
        "linear": {"kernel": np.array(given["linear_w"])[:, None], "bias": [given["linear_b"]]},
    }
    # three prompt tokens, of which padding takes the last, then one scored token
    segments = np.array([[*mask, 1]], np.int32)
    hidden = np.concatenate([given["hidden_states"], [[[7.0, -7.0]]]], axis=1)

    def place(x, kind):
        return jax.device_put(jnp.asarray(x, kind), sharding.named(sharding.rows_spec(np.ndim(x))))

    with jax.set_mesh(toys.mesh()):
        head = jax.tree.map(
            lambda x, shape, partition: jax.device_put(jnp.asarray(x, jnp.float32).reshape(shape.shape), sharding.named(partition)),
            head, model.shapes["value_head"], models.shardings(model)["value_head"], is_leaf=lambda x: isinstance(x, list),
        )  # fmt: skip
        arrays = (place(x, jnp.int32) for x in ([[0, 1, 2, 3]], segments, 0 * segments, [[-1, -1, -1, 0]]))
        values = models.prompt_values(model, {"value_head": head}, place(hidden, jnp.float32), *arrays, place([[True]], bool))
    batch = responses(np.ones((1, 1, 1)), reward=[[given["reward_target"]]])
    terms = toys.objective("value")[0](Outputs(jnp.zeros((1, 1)), prompt_values=values), None, batch)
    return float(values[0, 0]), float(terms.loss[0, 0])


def test_the_golden_value_comes_out():
    given, expected = CASES["alol_9_value_head"]
    value, error = golden_value(given["mask_all"])
    np.testing.assert_allclose(value, expected["value_all"], rtol=1e-6)
    np.testing.assert_allclose(error, expected["mse_all"], rtol=2e-6)
    np.testing.assert_allclose(given["reward_target"] - value, expected["advantage_all"], rtol=1e-6)


def test_the_golden_value_of_a_padded_prompt_comes_out():
    given, expected = CASES["alol_9_value_head"]
    np.testing.assert_allclose(golden_value(given["mask_padded"])[0], expected["value_padded"], rtol=1e-6)


def of(values, reward, valid):
    values = jnp.asarray(values)
    batch = responses(np.ones((*values.shape, 1)), reward=reward, valid=valid)
    return toys.objective("value")[0](Outputs(jnp.zeros(values.shape), prompt_values=values), None, batch)


def test_the_loss_is_least_at_the_mean_reward_of_the_valid_responses():
    reward, valid = [[1.0, 0.0, 9.0], [1.0, 0.25, 0.0]], [[True, True, False], [True, True, False]]

    def mean(value):
        terms = of(jnp.full((2, 3), value), reward, valid)
        return (terms.loss * terms.weight).sum() / terms.weight.sum()

    slope = jax.jit(jax.grad(mean))
    np.testing.assert_allclose(slope(2.25 / 4), 0, atol=1e-7)
    assert slope(0.6) > 0 > slope(0.5)


def test_several_rewards_are_summed():
    batch = responses(np.ones((1, 2, 1)), reward=[[0.25, 1.0]], valid=[[True, True]])
    batch = batch.replace(columns={"safety": jnp.array([[0.5, -1.0]])})
    policy = Outputs(jnp.zeros((1, 2)), prompt_values=jnp.array([[0.5, 0.5]]))
    terms = toys.objective("value")[0](policy, None, batch, rewards=("reward", "safety"))
    np.testing.assert_allclose(terms.loss, [[(0.5 - 0.75) ** 2, 0.5**2]], rtol=1e-6)


def test_the_correlation_of_value_and_reward_follows_from_the_metrics():
    draw = np.random.default_rng(0)
    values, reward = draw.random((2, 20, 2))
    means = {
        name: float(np.average(*pair[:1], weights=pair[1])) for name, pair in of(values, reward, np.ones((20, 2), bool)).metrics.items()
    }
    v, r = means["values/mean"], means["feedback/mean"]
    correlation = (means["values/times_feedback"] - v * r) / np.sqrt((means["values/square"] - v**2) * (means["feedback/square"] - r**2))
    np.testing.assert_allclose(correlation, np.corrcoef(values.reshape(-1), reward.reshape(-1))[0, 1], rtol=1e-4)


def test_a_model_without_a_value_head_is_refused():
    with pytest.raises(ValueError, match="reads the value head but the model has none; set model.value_head to the largest reward"):
        toys.objective("value")[0](Outputs(jnp.zeros((1, 1))), None, responses(np.ones((1, 1, 1))))

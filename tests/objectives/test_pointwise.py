"""The four losses of a single response's logit, the terms they make, and their relation to the published losses."""

import jax
import jax.numpy as jnp
from losses import VECTORS, batch, evaluate, metric, outputs
import numpy as np
import pytest

from jaxalign.objectives.families import responses


def summed(kernel, u, target):
    return jax.value_and_grad(lambda u: kernel(u, jnp.asarray(target, jnp.float32)).sum())(jnp.asarray(u, jnp.float32))


def test_the_golden_values_at_saturation_come_out():
    given, expected = VECTORS["una_bce_saturation"]
    u, labels = jnp.asarray(given["implicit_reward"], jnp.float32), jnp.asarray(given["labels"], jnp.float32)
    np.testing.assert_allclose(responses.bce(u, labels), expected["bce_per_example"], rtol=1e-6)
    np.testing.assert_allclose(summed(responses.bce, u, labels)[1], expected["bce_grad_wrt_reward"], rtol=1e-6)
    np.testing.assert_allclose(summed(responses.mse, u, labels)[1], expected["mse_grad_wrt_reward"], atol=1e-16)


@pytest.mark.parametrize("name", responses.KERNELS)
def test_values_and_slopes_are_those_of_the_formula_in_float64(name):
    u, target = np.array([-3.0, -0.5, 0.0, 0.4, 2.0]), np.array([0.0, 1.0, 0.3, 0.9, 0.5])

    def formula(u):
        s = 1 / (1 + np.exp(-u))
        return {
            "l1": target * (1 - s) + (1 - target) * s,
            "mse": (s - target) ** 2,
            "bce": -target * np.log(s) - (1 - target) * np.log(1 - s),
            "raw": (u - target) ** 2,
        }[name]

    kernel = responses.KERNELS[name]
    np.testing.assert_allclose(kernel(jnp.asarray(u, jnp.float32), jnp.asarray(target, jnp.float32)), formula(u), rtol=1e-6)
    slopes = (formula(u + 1e-5) - formula(u - 1e-5)) / 2e-5
    np.testing.assert_allclose(summed(kernel, u, target)[1], slopes, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", responses.KERNELS)
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_value_and_slope_are_finite_at_a_huge_logit(name, target):
    value, slope = summed(responses.KERNELS[name], [-800.0, 800.0], [target, target])
    assert np.isfinite(value) and np.isfinite(slope).all()


def test_l1_is_the_absolute_error_of_a_label():
    u = jnp.linspace(-4, 4, 9)
    for label in (0.0, 1.0):
        np.testing.assert_allclose(responses.l1(u, label), np.abs(jax.nn.sigmoid(u) - label), rtol=1e-6, atol=1e-7)


def test_nca_is_two_weighted_cross_entropies():
    policy, reference = np.array([[-12.0, -19.0], [-30.5, -28.0]]), np.array([[-12.5, -13.0], [-30.0, -28.75]])
    terms, *_ = evaluate("nca", policy, reference, batch(2), beta=0.1)
    chosen, rejected = (jnp.asarray(0.1 * (policy - reference)[:, side], jnp.float32) for side in range(2))
    np.testing.assert_allclose(terms.loss, 1.5 * responses.bce(chosen, 2 / 3) + 0.5 * responses.bce(rejected, 0.0), rtol=1e-6)


def test_the_gradient_of_raw_on_the_policys_own_samples_is_that_of_the_regularised_reward_whatever_the_offset():
    given, expected = VECTORS["una_onpolicy_identity"]
    reference, reward = jnp.log(jnp.asarray(given["ref_probs"])), jnp.asarray(given["reward"])

    def loss(logits, offset):
        logps = jax.nn.log_softmax(logits)
        u = given["beta"] * (logps - reference) + offset
        return jnp.sum(jax.lax.stop_gradient(jnp.exp(logps)) * responses.raw(u, reward))

    logits = jnp.asarray(given["logits"])
    np.testing.assert_allclose(jax.grad(loss)(logits, 0.0), expected["grad_una_mse_onpolicy"], rtol=2e-6)
    np.testing.assert_allclose(jax.grad(loss)(logits, given["offset_c"]), expected["grad_una_mse_onpolicy_with_offset_c"], rtol=2e-6)
    np.testing.assert_allclose(jax.grad(loss)(logits, 0.0), -2 * given["beta"] * np.array(expected["grad_J"]), rtol=2e-6)


def test_each_side_has_its_own_mean():
    of = batch(3, lengths=[[2, 1], [3, 4], [1, 1]], reward=[[1.0, 0.0], [0.7, 0.2], [1.0, 1.0]], valid=[[1, 1], [1, 1], [1, 0]])
    each = responses.responses(outputs([[-2.0, -4.0], [-1.0, -9.0], [-3.0, -50.0]], of), outputs(np.zeros((3, 2)), of), of)
    u = 0.1 * each.log_ratios
    terms = responses.response_terms(u, each, u, of.reward, beta=0.1)
    expected = {
        "rewards/chosen": -0.2, "rewards/rejected": -0.65, "logps/chosen": -2.0, "logps/rejected": -6.5,
        "lengths/chosen": 2.0, "lengths/rejected": 2.5, "targets/mean": 2.9 / 5, "scores/saturated": 0.0,
        "scores/chosen": np.mean(1 / (1 + np.exp([0.2, 0.1, 0.3]))), "scores/rejected": np.mean(1 / (1 + np.exp([0.4, 0.9]))),
        "scores/brier": np.mean((1 / (1 + np.exp([0.2, 0.4, 0.1, 0.9, 0.3])) - [1, 0, 0.7, 0.2, 1]) ** 2),
    }  # fmt: skip
    assert terms.metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert metric(terms, name) == pytest.approx(value, rel=1e-6), name
    np.testing.assert_array_equal(terms.weight, [[1, 1], [1, 1], [1, 0]])


def test_scores_near_0_or_1_count_as_saturated():
    u = jnp.array([[-5.0, -4.0], [4.0, 5.0]])  # 1/(1 + e^4) is 0.018, 1/(1 + e^5) is 0.0067
    value, _ = responses.score_metrics(u, jnp.ones((2, 2)), jnp.ones((2, 2)))["scores/saturated"]
    np.testing.assert_array_equal(value, [[1, 0], [0, 1]])

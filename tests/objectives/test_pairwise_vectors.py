"""DPO, cDPO and rDPO against the golden vectors, and what every pairwise objective promises at the edges."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign import logps, sharding
from jaxalign.types import Batch, Outputs

VECTORS = {v["name"]: v for v in json.loads((pathlib.Path(__file__).parents[1] / "golden" / "vectors-dpo.json").read_text())["vectors"]}
NOISY = ["cdpo", "rdpo"]
PAIRWISE = ["dpo", *NOISY]


def one_token_each(pairs):
    """A batch whose responses have one token: row r is pair r, so log-probs [N, 2] are log-probs [R, T]."""
    slots = jnp.tile(jnp.arange(2, dtype=jnp.int32), (pairs, 1))
    zeros = jnp.zeros_like(slots)
    truth = jnp.ones((pairs, 2), bool)
    return Batch(zeros, zeros, slots + 1, zeros, slots, reward=jnp.zeros((pairs, 2)), paired=truth[:, 0], valid=truth)


def outputs(chosen, rejected):
    values = jnp.stack([jnp.asarray(chosen, jnp.float32), jnp.asarray(rejected, jnp.float32)], axis=1)
    return Outputs(values, values[:, :, None], values)


def evaluate(name, policy, reference, **hparams):
    """(terms, gradient of the mean loss to the policy's log-probs, gradient to the reference's)"""

    def mean(policy, reference):
        terms = toys.objective(name)[0](policy, reference, one_token_each(len(policy.logps)), **hparams)
        return jnp.sum(terms.loss * terms.weight) / jnp.sum(terms.weight), terms

    (_, terms), (to_policy, to_reference) = jax.value_and_grad(mean, argnums=(0, 1), has_aux=True)(policy, reference)
    return terms, to_policy.logps, to_reference.logps


@pytest.mark.parametrize("vector", ["dpo_sigmoid", "cdpo_eps0.1", "rdpo_eps0.1"])
def test_the_golden_losses_gradients_and_metrics_come_out(vector):
    given, expected = VECTORS[vector]["inputs"], VECTORS[vector]["expected"]
    hparams = {key: given[key] for key in ("beta", "label_smoothing") if key in given}
    policy, reference = (outputs(given[f"{side}_chosen"], given[f"{side}_rejected"]) for side in ("policy", "ref"))
    terms, to_policy, to_reference = evaluate(vector.split("_")[0], policy, reference, **hparams)
    np.testing.assert_allclose(terms.loss, expected["per_example_loss"], rtol=1e-6)
    np.testing.assert_allclose(np.average(terms.loss, weights=terms.weight), expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(to_policy[:, 0], expected["grad_policy_chosen"], rtol=1e-6)
    np.testing.assert_allclose(to_policy[:, 1], expected["grad_policy_rejected"], rtol=1e-6)
    assert not to_reference.any()
    metrics = {name: np.asarray(value) for name, (value, _) in terms.metrics.items()}
    of_dpo = VECTORS["dpo_sigmoid"]["expected"]  # rewards do not depend on the smoothing
    np.testing.assert_allclose(metrics["rewards/chosen"], of_dpo["reward_chosen"], rtol=1e-6)
    np.testing.assert_allclose(metrics["rewards/rejected"], of_dpo["reward_rejected"], rtol=1e-6)
    np.testing.assert_allclose(metrics["rewards/accuracies"].mean(), of_dpo["accuracy"], rtol=1e-6)
    np.testing.assert_allclose(metrics["rewards/margins"].mean(), of_dpo["margin"], rtol=1e-6)


def test_cdpo_stands_still_at_the_golden_margin():
    margin = VECTORS["cdpo_eps0.1"]["expected"]["stationary_delta"]
    _, gradient, _ = evaluate("cdpo", outputs([margin], [0.0]), outputs([0.0], [0.0]), beta=0.1, label_smoothing=0.1)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-8)


def test_rdpo_is_negative_at_a_large_margin():
    terms, _, _ = evaluate("rdpo", outputs([200.0], [0.0]), outputs([0.0], [0.0]), beta=0.1, label_smoothing=0.1)
    np.testing.assert_allclose(terms.loss[0], VECTORS["rdpo_eps0.1"]["expected"]["loss_at_delta_200"], rtol=1e-6)


@pytest.mark.parametrize("name", PAIRWISE)
def test_equal_policy_and_reference_give_ln_2_and_no_accuracy(name):
    same = outputs([-12.0, -3.5], [-19.0, -400.0])
    terms, _, _ = evaluate(name, same, same)
    np.testing.assert_allclose(terms.loss, np.log(2), rtol=1e-6)
    assert not terms.metrics["rewards/accuracies"][0].any()
    assert terms.metrics["logps/accuracies"][0].all()


@pytest.mark.parametrize("name", PAIRWISE)
def test_no_smoothing_is_dpo(name):
    policy, reference = outputs([-12.0, -3.5], [-19.0, -4.0]), outputs([-13.0, -3.0], [-12.0, -5.0])
    hparams = {"label_smoothing": 0.0} if name in NOISY else {}
    np.testing.assert_allclose(evaluate(name, policy, reference, **hparams)[0].loss, evaluate("dpo", policy, reference)[0].loss, rtol=1e-6)


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("logit", [800.0, -800.0])
def test_loss_and_gradient_are_finite_at_a_huge_logit(name, logit):
    terms, gradient, _ = evaluate(name, outputs([logit], [0.0]), outputs([0.0], [0.0]), beta=1.0)
    assert np.isfinite(terms.loss).all() and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("label_smoothing", [-0.1, 0.5, 0.7])
def test_label_smoothing_out_of_range_is_refused(name, label_smoothing):
    same = outputs([-1.0], [-2.0])
    with pytest.raises(ValueError, match=f"'{name}' got label_smoothing={label_smoothing}"):
        evaluate(name, same, same, label_smoothing=label_smoothing)


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("what", ["unpaired", "no rejected", "no chosen"])
def test_a_group_that_is_no_complete_pair_has_no_weight(name, what):
    batch, same = one_token_each(2), outputs([-1.0, -2.0], [-3.0, -1.0])
    if what == "unpaired":
        batch = batch.replace(paired=jnp.array([True, False]))
    else:
        batch = batch.replace(valid=batch.valid.at[1, int(what == "no rejected")].set(False))
    terms = toys.objective(name)[0](same, same, batch)
    np.testing.assert_array_equal(terms.weight, [1.0, 0.0])
    assert all(np.array_equal(weight, [1.0, 0.0]) for _, weight in terms.metrics.values())


def test_the_golden_token_log_probs_come_out():
    given, expected = VECTORS["sequence_logprob_shift_mask"]["inputs"], VECTORS["sequence_logprob_shift_mask"]["expected"]
    with jax.set_mesh(toys.mesh()):
        # hidden states that are the logits, and a head that is the identity
        hidden = jax.device_put(jnp.asarray(given["logits"], jnp.float32), sharding.named(sharding.spec("rows", None, None)))
        head = jax.device_put(jnp.eye(3), sharding.named(sharding.spec("vocab", "embed")))
        tokens, scored = (
            jax.device_put(jnp.asarray(given[key], kind), sharding.named(sharding.spec("rows", None)))
            for key, kind in (("input_ids", jnp.int32), ("completion_mask", bool))
        )
        values = logps.token_logps(hidden, head, tokens, scored, vocab_size=3)
    np.testing.assert_allclose(values[:, 1:], expected["token_logps"], rtol=1e-6)
    np.testing.assert_allclose(values.sum(1), expected["sum_logp"], rtol=1e-6)
    np.testing.assert_allclose(values.sum(1) / scored.sum(1), expected["mean_logp"], rtol=1e-6)
    np.testing.assert_array_equal(scored.sum(1), expected["num_tokens"])

"""KTO and BCO: golden vectors, the numbers they take from the whole batch, and their limits."""

import jax
import jax.numpy as jnp
from losses import TRUST_REGION, VECTORS, batch, evaluate, means, metric, outputs
import numpy as np
import pytest

from jaxalign import objectives


def columns(first, second):
    return np.stack([first, second], axis=1)


def of_prompts(given):
    """(policy, reference, batch): response 0 of a group is judged, response 1 answers another prompt."""
    count = len(given["policy"])
    of = batch(
        count,
        reward=columns(given["desirable"], np.zeros(count)),
        paired=False,
        valid=columns(np.ones(count), np.zeros(count)),
        mismatched=columns(np.zeros(count), np.ones(count)),
    )
    return columns(given["policy"], given["kl_policy"]), columns(given["ref"], given["kl_ref"]), of


@pytest.mark.parametrize("vector", ["kto_basic", "kto_weights_clamped"])
def test_the_golden_losses_and_gradients_come_out(vector):
    given, expected = VECTORS[vector]
    hparams = {"beta": given["beta"], "desirable_weight": given["lambda_D"], "undesirable_weight": given["lambda_U"]}
    terms, loss, to_policy, to_reference, _ = evaluate("kto", *of_prompts(given), **hparams)
    np.testing.assert_allclose(terms.loss[:, 0], expected["per_example_loss"], rtol=1e-6)
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(to_policy[:, 0], expected["grad_policy"], rtol=1e-6)
    assert not to_policy[:, 1].any() and not to_reference.any()
    assert metric(terms, "z0") == pytest.approx(expected["z0"])
    assert metric(terms, "z0/raw") == pytest.approx(expected.get("raw_mean_kl", expected["z0"]))
    assert metric(terms, "z0/clamped") == float("raw_mean_kl" in expected)


def test_the_reference_point_is_clamped_after_the_mean_and_padding_is_not_in_it():
    given, expected = VECTORS["kto_two_device_z0"]
    ratios = np.array([*given["device0_kl_logratios"], *given["device1_kl_logratios"], 77.0])
    zeros, real = np.zeros(9), np.array([1.0] * 8 + [0.0])
    of = batch(9, paired=False, valid=columns(real, zeros), mismatched=columns(zeros, np.ones(9)))
    terms, *_ = evaluate("kto", columns(zeros, ratios), np.zeros((9, 2)), of)
    assert metric(terms, "z0") == pytest.approx(expected["z0_mean_then_clamp"])


def test_the_golden_losses_and_gradients_on_pairs_come_out():
    given, expected = TRUST_REGION["inputs"], TRUST_REGION["expected"]["kto_pair"]
    policy, reference = (columns(given[f"{model}_chosen_logps"], given[f"{model}_rejected_logps"]) for model in ("policy", "ref"))
    terms, loss, to_policy, to_reference, _ = evaluate("kto_pair", policy, reference, batch(3), beta=given["beta"])
    np.testing.assert_allclose(loss, expected["mean_over_2B"], rtol=1e-6)
    np.testing.assert_allclose(to_policy[:, 0], expected["grad_policy_chosen_kl_detached"], rtol=1e-6)
    np.testing.assert_allclose(to_policy[:, 1], expected["grad_policy_rejected_kl_detached"], rtol=1e-6)
    assert not to_reference.any()
    for side in ("chosen", "rejected"):
        assert metric(terms, f"kl/{side}") == pytest.approx(expected[f"kl_{side}"], abs=1e-6)


def test_the_reference_point_has_no_gradient():
    given, _ = VECTORS["kto_basic"]
    policy, reference, of = of_prompts(given)

    def kl(policy):
        values, weights = objectives.bind("kto").statistics(outputs(policy, of), outputs(reference, of), of)["kl"]
        return jnp.sum(values * weights)

    assert not jax.grad(kl)(jnp.asarray(policy)).any()


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_batch_of_one_kind_trains(label):
    of = batch(2, reward=np.full((2, 2), label), paired=False, valid=[[1, 0], [1, 0]], mismatched=[[0, 1], [0, 1]])
    terms, loss, gradient, _, _ = evaluate(
        "kto", np.full((2, 2), -3.0), np.full((2, 2), -3.0), of, desirable_weight=1.3, undesirable_weight=0.8
    )
    np.testing.assert_allclose(loss, 0.65 if label else 0.4, rtol=1e-6)  # half the weight where policy and reference are equal
    assert np.isfinite(gradient).all() and (gradient[:, 0] < 0).all() == bool(label)
    assert np.isnan(metric(terms, "rewards/rejected" if label else "rewards/chosen"))


def test_a_pair_is_two_responses():
    policy, reference, reward = [[-12.0, -19.0, -7.0]], [[-12.5, -13.0, -9.0]], [[1.0, 0.0, 0.0]]
    given = {"reward": reward, "valid": [[1, 1, 0]], "mismatched": [[0, 0, 1]]}
    paired, alone = (evaluate("kto", policy, reference, batch(1, 3, paired=paired, **given)) for paired in (True, False))
    np.testing.assert_array_equal(paired[0].loss, alone[0].loss)
    u = 0.1 * (np.array([0.5, -6.0]) - 2.0)
    np.testing.assert_allclose(paired[1], np.mean([1 / (1 + np.exp(u[0])), 1 / (1 + np.exp(-u[1]))]), rtol=1e-6)


def test_a_score_above_the_threshold_is_desirable():
    of = batch(1, 3, reward=[[0.5, 0.6, 0.0]], paired=False, valid=[[1, 1, 0]], mismatched=[[0, 0, 1]])
    terms, *_ = evaluate("kto", [[-1.0, -1.0, 0.0]], [[-2.0, -2.0, 0.0]], of)
    s = 1 / (1 + np.exp(-0.1))
    np.testing.assert_allclose(terms.loss[0, :2], [s, 1 - s], rtol=1e-6)
    terms, *_ = evaluate("kto", [[-1.0, -1.0, 0.0]], [[-2.0, -2.0, 0.0]], of, threshold=0.4)
    np.testing.assert_allclose(terms.loss[0, :2], [1 - s, 1 - s], rtol=1e-6)


def test_kto_is_una_with_the_absolute_error_and_the_offset_of_the_batch():
    policy, reference, of = of_prompts(VECTORS["kto_basic"][0])
    terms, loss, gradient, _, _ = evaluate("kto", policy, reference, of, beta=0.2)
    other, other_loss, other_gradient, _, _ = evaluate("una", policy, reference, of, beta=0.2, loss="l1", offset="kl_batch")
    np.testing.assert_allclose(other.loss[:, 0], terms.loss[:, 0], rtol=1e-6)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(other_gradient, gradient, rtol=1e-6)


def test_apo_zero_judged_one_by_one_is_kto_with_a_reference_point_of_0():
    policy, reference = np.array([[-12.0, -19.0], [-30.5, -28.0]]), np.array([[-12.5, -13.0], [-30.0, -28.75]])
    apo, *_ = evaluate("apo_zero", policy, reference, batch(2))
    of = batch(2, 3, reward=[[1, 0, 0]] * 2, paired=False, valid=[[1, 1, 0]] * 2, mismatched=[[0, 0, 1]] * 2)
    kto, *_ = evaluate("kto", np.c_[policy, [-5.0, -5.0]], np.c_[reference, [-4.0, -4.0]], of)  # a mean below 0 is clamped to 0
    una, *_ = evaluate("una", policy, reference, batch(2, reward=[[1, 0]] * 2, paired=False), beta=0.1, loss="l1")
    np.testing.assert_allclose(kto.loss[:, :2].sum(1), apo.loss, rtol=1e-6)
    np.testing.assert_allclose(una.loss.sum(1), apo.loss, rtol=1e-6)


@pytest.mark.parametrize("option", ["desirable_weight", "undesirable_weight"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_weight_that_is_not_above_0_is_refused(option, value):
    with pytest.raises(ValueError, match=f"'kto' got .*{option}={value}"):
        evaluate("kto", *of_prompts(VECTORS["kto_basic"][0]), **{option: value})


def test_a_batch_without_mismatched_responses_is_refused():
    with pytest.raises(ValueError, match="reads column 'mismatched'"):
        evaluate("kto", [[-1.0, -2.0]], [[-1.0, -2.0]], batch(1, paired=False))


@pytest.mark.parametrize("name", ["kto", "bco"])
@pytest.mark.parametrize("beta", [0.0, -0.1])
def test_a_beta_that_is_not_above_0_is_refused(name, beta):
    with pytest.raises(ValueError, match=f"beta={beta}"):
        evaluate(name, *of_prompts(VECTORS["kto_basic"][0]), beta=beta)


@pytest.mark.parametrize("name", ["kto", "bco"])
@pytest.mark.parametrize("logit", [800.0, -800.0])
def test_loss_and_gradient_are_finite_at_a_huge_logit(name, logit):
    of = batch(1, 3, reward=[[1, 0, 0]], paired=False, valid=[[1, 1, 0]], mismatched=[[0, 0, 1]])
    terms, _, gradient, _, _ = evaluate(name, [[logit, 0.0, 0.0]], [[0.0, logit, 0.0]], of, beta=1.0)
    assert np.isfinite(terms.loss).all() and np.isfinite(gradient).all()


P = VECTORS["peer_losses"][0]
POLICY, REFERENCE = columns(P["policy_chosen"], P["policy_rejected"]), columns(P["ref_chosen"], P["ref_rejected"])
BOTH_LABELS = [[1.0, 0.0]] * 3


def test_half_the_golden_pair_loss_of_bco_comes_out_without_a_shift():
    of = batch(3, reward=BOTH_LABELS)
    known = {"rewards": jnp.float32(0.0), "seen": jnp.float32(1.0)}
    terms = objectives.bind("bco", beta=0.1).terms(outputs(POLICY, of), outputs(REFERENCE, of), of, known)
    np.testing.assert_allclose(2 * np.mean(terms.loss), VECTORS["peer_losses"][1]["bco_pair_delta0"], rtol=1e-6)


def test_the_shift_of_bco_is_the_running_mean_of_all_rewards_without_the_bias_of_its_start():
    of, hparams = batch(3, reward=BOTH_LABELS), {"beta": 0.1, "decay": 0.6}
    rewards = 0.1 * (POLICY - REFERENCE)
    terms, _, gradient, _, known = evaluate("bco", POLICY, REFERENCE, of, **hparams)
    assert metric(terms, "offset") == pytest.approx(-rewards.mean(), rel=1e-6)
    u = rewards - rewards.mean()
    np.testing.assert_allclose(terms.loss, np.logaddexp(0, u * [-1, 1]), rtol=1e-6)
    np.testing.assert_allclose(gradient, 0.1 * (1 / (1 + np.exp(-u)) - [1, 0]) / 6, rtol=1e-6)  # the shift is a constant
    later, _, _, _, after = evaluate("bco", POLICY + 1.0, REFERENCE, of, previous=known, **hparams)
    mean = (0.6 * rewards.mean() + (rewards + 0.1).mean()) / (0.6 + 1)
    assert metric(later, "offset") == pytest.approx(-mean, rel=1e-5)
    nothing = objectives.bind("bco", **hparams)
    empty = nothing.carry(
        after, means(nothing.statistics(outputs(POLICY, of), outputs(REFERENCE, of), of.replace(valid=of.valid & False))), 2
    )
    assert empty["rewards"] / empty["seen"] == pytest.approx(mean, rel=1e-5)  # a batch without responses does not pull it to 0


def test_bco_on_labels_is_una_with_the_cross_entropy_and_the_moving_offset():
    of = batch(3, reward=BOTH_LABELS, paired=False)
    terms, *_ = evaluate("bco", POLICY, REFERENCE, of, beta=0.1)
    other, *_ = evaluate("una", POLICY, REFERENCE, of, beta=0.1, loss="bce", offset="ema")
    np.testing.assert_allclose(other.loss, terms.loss, rtol=1e-6)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=f"'bco' got decay={decay}"):
        evaluate("bco", POLICY, REFERENCE, batch(3), decay=decay)


def test_equal_policy_and_reference_give_ln_2_to_bco():
    _, loss, *_ = evaluate("bco", POLICY, POLICY, batch(3, reward=BOTH_LABELS))
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)

"""UNA: golden vectors of scores and thumbs, batches that mix them with pairs, and the offsets."""

import jax
import jax.numpy as jnp
from losses import VECTORS, batch, evaluate, metric, outputs
import numpy as np
import pytest

from jaxalign import objectives

POLICY = np.array([[-12.0, -19.0], [-30.5, -28.0], [-8.25, -9.5], [-4.0, -6.0], [-1.0, -2.0]])
REFERENCE = np.array([[-12.5, -13.0], [-30.0, -28.75], [-9.0, -9.0], [-5.0, -4.0], [-7.0, -9.0]])
RHO = POLICY - REFERENCE


def mixed():
    """A pair, a group of two scores, one of one score, a pair without its rejected side, and filler."""
    return batch(
        5, reward=[[0.0, 1.0], [0.8, 0.3], [1.0, 9.0], [1.0, 0.0], [9.0, 9.0]], paired=[True, False, False, True, False],
        valid=[[1, 1], [1, 1], [1, 0], [1, 0], [0, 0]],
    )  # fmt: skip


def single(given, reward):
    """(policy, reference, batch) of groups with one response."""
    policy, reference = (np.array(given[who])[:, None] for who in ("policy", "ref"))
    return policy, reference, batch(len(policy), 1, reward=np.array(reward)[:, None], paired=False)


def test_the_golden_scores_come_out():
    given, expected = VECTORS["una_score_mse_helpsteer2"]
    target = np.array([0.65, 0.8, 0.45]) @ np.array([given[name] for name in ("helpfulness", "correctness", "coherence")]) / 7.6
    np.testing.assert_allclose(target, expected["target"], rtol=1e-9)
    terms, loss, to_policy, to_reference, _ = evaluate("una", *single(given, target), beta=given["beta"])
    np.testing.assert_allclose(terms.loss[:, 0], expected["per_example_loss"], rtol=1e-6)
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(to_policy[:, 0], expected["grad_policy"], rtol=1e-6)
    assert not to_reference.any()
    assert metric(terms, "loss/scores") == pytest.approx(expected["loss"])
    assert metric(terms, "scores/brier") == pytest.approx(expected["loss"])


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_the_golden_thumbs_come_out(loss):
    given, expected = VECTORS["una_binary_mse_bce"]
    terms, mean, gradient, _, _ = evaluate("una", *single(given, given["labels"]), beta=given["beta"], loss=loss)
    np.testing.assert_allclose(terms.loss[:, 0], expected[f"{loss}_per_example"], rtol=1e-6)
    np.testing.assert_allclose(mean, expected[f"{loss}_loss"], rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], expected[f"{loss}_grad_policy"], rtol=1e-6)
    score = np.array(expected["implicit_score"])
    assert metric(terms, "scores/chosen") == pytest.approx(score[[0, 2]].mean())
    assert metric(terms, "scores/rejected") == pytest.approx(score[1])


@pytest.mark.parametrize(("loss", "key"), [("mse", "paper"), ("raw", "raw_reward_mse")])
def test_the_golden_losses_against_a_reward_model_come_out(loss, key):
    given, expected = VECTORS["una_online"]
    reward = np.array(given["reward_model_score"]) if loss == "raw" else expected["target_score"]
    _, mean, gradient, _, _ = evaluate("una", *single(given, reward), beta=given["beta"], loss=loss)
    np.testing.assert_allclose(mean, expected["loss_raw_reward_mse" if loss == "raw" else "loss_paper_ref_denominator"], rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], expected[f"grad_{key}"], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "loss", "gradient"),
    [
        (dict(), "loss_paper_ref_denominator", "grad_paper"),
        (dict(form="raw"), "loss_raw_reward_mse", "grad_raw_reward_mse"),
        (dict(denominator="rollout"), "loss_released_code_rollout_denominator", "grad_released_code"),
    ],
)
def test_the_golden_losses_on_rollouts_come_out(options, loss, gradient):
    given, expected = VECTORS["una_online"]
    policy, reference, of = single(given, given["reward_model_score"])
    drawn = outputs(np.array(given["rollout_policy"])[:, None], of).logps
    of = of.replace(columns={"rollout_reward": of.reward, "rollout_logps": drawn})
    terms, mean, to_policy, to_reference, _ = evaluate("una_online", policy, reference, of, beta=given["beta"], **options)
    np.testing.assert_allclose(mean, expected[loss], rtol=1e-6)
    np.testing.assert_allclose(to_policy[:, 0], expected[gradient], rtol=1e-6)
    assert not to_reference.any() and metric(terms, "targets/mean") == pytest.approx(np.mean(expected["target_score"]))


def test_una_on_rollouts_refuses_unknown_forms():
    policy, reference, of = single(VECTORS["una_online"][0], [0.0, 0.0])
    of = of.replace(columns={"rollout_reward": of.reward, "rollout_logps": of.reward})
    for options in (dict(form="mse"), dict(denominator="ref")):
        with pytest.raises(ValueError, match=r"there are \('squashed', 'raw'\) and \('reference', 'rollout'\)"):
            evaluate("una_online", policy, reference, of, **options)


def test_every_judgement_weighs_once():
    terms, loss, to_policy, to_reference, _ = evaluate("una", POLICY, REFERENCE, mixed(), beta=0.1)
    np.testing.assert_array_equal(terms.weight, [[1, 0], [1, 1], [1, 0], [0, 0], [0, 0]])
    pair = np.logaddexp(0, -0.1 * (RHO[0, 0] - RHO[0, 1]))
    scores = (1 / (1 + np.exp(-0.1 * np.array([*RHO[1], RHO[2, 0]]))) - [0.8, 0.3, 1.0]) ** 2
    np.testing.assert_allclose(loss, (pair + scores.sum()) / 4, rtol=1e-6)
    assert metric(terms, "loss/pairs") == pytest.approx(pair, rel=1e-6)
    assert metric(terms, "loss/scores") == pytest.approx(scores.mean(), rel=1e-6)
    np.testing.assert_array_equal(to_policy != 0, [[1, 1], [1, 1], [1, 0], [0, 0], [0, 0]])
    assert not to_reference.any()


def test_the_metrics_of_a_mixed_batch_are_over_both_kinds():
    terms, *_ = evaluate("una", POLICY, REFERENCE, mixed(), beta=0.1)
    assert metric(terms, "rewards/chosen") == pytest.approx(0.1 * np.mean([RHO[0, 0], RHO[1, 0], RHO[2, 0]]), rel=1e-6)
    assert metric(terms, "rewards/rejected") == pytest.approx(0.1 * np.mean([RHO[0, 1], RHO[1, 1]]), rel=1e-6)
    assert metric(terms, "logps/chosen") == pytest.approx(np.mean([-12.0, -30.5, -8.25]), rel=1e-6)
    assert metric(terms, "rewards/margins") == pytest.approx(0.65, rel=1e-6)  # of the pair
    assert metric(terms, "targets/mean") == pytest.approx(0.7, rel=1e-6)  # of the scores


def test_pairs_alone_are_dpo():
    of = batch(5)
    terms, loss, gradient, _, _ = evaluate("una", POLICY, REFERENCE, of, beta=0.1)
    other, dpo, dpo_gradient, _, _ = evaluate("dpo", POLICY, REFERENCE, of, beta=0.1)
    np.testing.assert_allclose(loss, dpo, rtol=1e-6)
    np.testing.assert_allclose(gradient, dpo_gradient, rtol=1e-6)
    for name in other.metrics:
        assert metric(terms, name) == pytest.approx(metric(other, name), rel=1e-6), name


@pytest.mark.parametrize(("loss", "expected"), [("mse", 0.04), ("bce", np.log(2)), ("l1", 0.5), ("raw", 0.49)])
def test_equal_policy_and_reference_give_the_documented_loss(loss, expected):
    terms, *_ = evaluate("una", POLICY, POLICY, mixed().replace(reward=jnp.full((5, 2), 0.7)), loss=loss)
    np.testing.assert_allclose(terms.loss[1], expected, rtol=1e-6)
    np.testing.assert_allclose(terms.loss[0, 0], np.log(2), rtol=1e-6)


def test_a_constant_offset_shifts_the_logit_of_single_responses():
    of = mixed()
    terms, _, gradient, _, _ = evaluate("una", POLICY, REFERENCE, of, beta=0.1, offset="const", constant=-0.4)
    s = 1 / (1 + np.exp(-(0.1 * RHO[1] - 0.4)))
    np.testing.assert_allclose(terms.loss[1], (s - [0.8, 0.3]) ** 2, rtol=1e-6)
    np.testing.assert_allclose(terms.loss[0], evaluate("una", POLICY, REFERENCE, of, beta=0.1)[0].loss[0], rtol=1e-6)  # a pair has none
    np.testing.assert_allclose(gradient[1], 0.1 * 2 * (s - [0.8, 0.3]) * s * (1 - s) / 4, rtol=1e-5)


def test_the_moving_offset_is_minus_the_running_mean_reward_of_single_responses():
    rewards = 0.1 * np.array([*RHO[1], RHO[2, 0]])
    terms, *_, known = evaluate("una", POLICY, REFERENCE, mixed(), beta=0.1, loss="bce", offset="ema", decay=0.5)
    u = 0.1 * RHO[1] - rewards.mean()
    np.testing.assert_allclose(terms.loss[1], np.logaddexp(0, u) - [0.8, 0.3] * u, rtol=1e-6)
    later, *_ = evaluate("una", POLICY + 2, REFERENCE, mixed(), beta=0.1, loss="bce", offset="ema", decay=0.5, previous=known)
    u = 0.1 * RHO[1] + 0.2 - (0.5 * rewards.mean() + (rewards + 0.2).mean()) / 1.5
    np.testing.assert_allclose(later.loss[1], np.logaddexp(0, u) - [0.8, 0.3] * u, rtol=1e-6)


@pytest.mark.parametrize(("kl", "z0"), [([3.0, 1.0], 2.0), ([-3.0, 1.0], 0.0)])
def test_the_offset_of_the_batch_is_clamped_after_the_mean(kl, z0):
    of = batch(2, 2, reward=[[1.0, 0.0]] * 2, paired=False, valid=[[1, 0]] * 2, mismatched=[[0, 1]] * 2)
    policy = np.stack([[-2.0, -4.0], np.array(kl) - 9], axis=1)
    terms, *_ = evaluate("una", policy, np.full((2, 2), -9.0), of, beta=0.1, offset="kl_batch")
    np.testing.assert_allclose(terms.loss[:, 0], (1 / (1 + np.exp(-0.1 * (np.array([7.0, 5.0]) - z0))) - 1) ** 2, rtol=1e-5)


def test_the_value_head_is_the_score_of_the_prompt_and_learns():
    of, values = mixed(), np.full((5, 2), 0.5)
    values[1] = 0.9, 0.2
    terms, *_ = evaluate("una", POLICY, POLICY, of, offset="value_head", prompt_values=values)
    np.testing.assert_allclose(terms.loss[1], (values[1] - [0.8, 0.3]) ** 2, rtol=1e-5)
    bound = objectives.bind("una", offset="value_head")

    def summed(values):
        terms = bound.terms(outputs(POLICY, of, prompt_values=values), outputs(POLICY, of), of, {})
        return jnp.sum(terms.loss * terms.weight)

    gradient = jax.jit(jax.grad(summed))(jnp.asarray(values, jnp.float32))
    np.testing.assert_allclose(gradient[1], 2 * (values[1] - [0.8, 0.3]), rtol=1e-5)
    np.testing.assert_array_equal(gradient != 0, [[0, 0], [1, 1], [1, 0], [0, 0], [0, 0]])


def test_the_value_head_is_the_offset_itself_of_the_raw_loss():
    terms, *_ = evaluate("una", POLICY, REFERENCE, mixed(), beta=0.1, loss="raw", offset="value_head", prompt_values=np.full((5, 2), 2.5))
    np.testing.assert_allclose(terms.loss[1], (0.1 * RHO[1] + 2.5 - [0.8, 0.3]) ** 2, rtol=1e-6)


def test_a_model_without_value_head_is_refused():
    with pytest.raises(ValueError, match="set model.value_head to the largest reward"):
        evaluate("una", POLICY, REFERENCE, mixed(), offset="value_head")


def test_a_batch_without_mismatched_responses_is_refused_only_where_they_are_read():
    with pytest.raises(ValueError, match="reads column 'mismatched'"):
        evaluate("una", POLICY, REFERENCE, mixed(), offset="kl_batch")
    assert objectives.bind("una").reads == ("reference", "mixed", "rewards")
    assert objectives.bind("una", offset="kl_batch").reads == ("reference", "mixed", "rewards", "mismatched")
    assert objectives.bind("una", offset="value_head").reads == ("reference", "mixed", "rewards", "value_head", "scores_of_prompts")
    assert objectives.bind("una", offset="value_head", loss="raw").reads == ("reference", "mixed", "rewards", "value_head")


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"loss": "hinge"}, "loss='hinge'"),
        ({"offset": "mean"}, "offset='mean'"),
        ({"offset": "ema", "decay": 1.0}, "decay=1.0"),
        ({"constant": 0.5}, "'const' alone reads constant"),
        ({"offset": "ema", "constant": 0.5}, "'const' alone reads constant"),
        ({"decay": 0.9}, "'ema' alone decay"),
        ({"beta": 0.0}, r"objective\.beta=0\.0"),
    ],
    ids=str,
)
def test_an_option_that_is_unknown_or_has_no_effect_is_refused(hparams, message):
    with pytest.raises(ValueError, match=message):
        evaluate("una", POLICY, REFERENCE, mixed(), **hparams)


@pytest.mark.parametrize("loss", ["mse", "bce", "l1", "raw"])
@pytest.mark.parametrize("logit", [800.0, -800.0])
def test_loss_and_gradient_are_finite_at_a_huge_logit(loss, logit):
    terms, _, gradient, _, _ = evaluate("una", POLICY + logit, REFERENCE, mixed(), beta=1.0, loss=loss)
    assert np.isfinite(terms.loss).all() and np.isfinite(gradient).all()
    values = jnp.array([[0.0, 1.0]] * 5)
    terms, _, gradient, _, _ = evaluate("una", POLICY, REFERENCE, mixed(), loss=loss, offset="value_head", prompt_values=values)
    assert np.isfinite(terms.loss).all() and np.isfinite(gradient).all()

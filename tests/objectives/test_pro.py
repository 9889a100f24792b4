"""PRO: the golden list, a formula written out, ties, filler and order."""

import jax
import jax.numpy as jnp
from modpo_vectors import CASES, outputs, responses
import numpy as np
import pytest
import toys


def evaluate(policy, mask, reward, *, valid=None, **hparams):
    """(terms, gradient of the mean loss to the log-probs [N, K, L])"""

    def mean(policy):
        terms = toys.objective("pro")[0](outputs(policy), None, responses(mask, reward=reward, valid=valid), **hparams)
        return jnp.sum(terms.loss * terms.weight) / jnp.sum(terms.weight), terms

    (_, terms), gradient = jax.jit(jax.value_and_grad(mean, has_aux=True))(jnp.asarray(policy, jnp.float32))
    return terms, gradient


def of_sums(sums, lengths, reward, **options):
    """The same of summed log-probs [N, K], spread evenly over `lengths` tokens; the gradient is that to the sums."""
    sums, lengths = np.asarray(sums, np.float32), np.asarray(lengths)
    mask = np.arange(int(lengths.max())) < lengths[..., None]
    terms, gradient = evaluate(np.where(mask, (sums / np.maximum(lengths, 1))[..., None], 0), mask, reward, **options)
    return terms, gradient[..., 0]


def test_the_golden_list_comes_out():
    given, expected = CASES["pro_11_listwise"]
    terms, gradient = of_sums([given["seq_logp_sum"]], [given["n_tokens"]], [given["reward"]], sft_weight=given["sft_weight"])
    np.testing.assert_allclose(terms.loss[0], expected["total"], rtol=1e-6)
    np.testing.assert_allclose(terms.metrics["ranking"][0][0], sum(expected["rank_losses_logsumexp"]), rtol=1e-6)
    np.testing.assert_allclose(gradient[0], expected["grad_wrt_seq_logp_sum"], rtol=1e-6)


def written_out(sums, lengths, reward):
    """The formula over sorted lists, in float64, for one group of different rewards."""
    order = np.argsort(-np.asarray(reward))
    score, reward = (np.asarray(sums, float) / lengths)[order], np.asarray(reward)[order]
    total = 0.05 * (len(order) - 1) ** 2 * -np.asarray(sums)[order[0]]
    for k in range(len(order) - 1):
        gaps = reward[k] - reward[k + 1 :]
        own = score[k] * gaps.max()
        total += np.log(np.exp(own) + np.exp(score[k + 1 :] * gaps).sum()) - own
    return total


@pytest.mark.parametrize("count", [2, 3, 5])
def test_lists_of_any_length_follow_the_formula(count):
    draw = np.random.default_rng(count)
    sums, lengths, reward = -5 * draw.random((4, count)), draw.integers(1, 6, (4, count)), draw.standard_normal((4, count))
    terms, _ = of_sums(sums, lengths, reward)
    expected = [written_out(*group) for group in zip(sums, lengths, reward, strict=True)]
    np.testing.assert_allclose(terms.loss, expected, rtol=1e-5)


def test_the_order_of_responses_does_not_matter_their_rewards_do():
    draw = np.random.default_rng(0)
    sums, lengths, reward = -5 * draw.random((3, 4)), draw.integers(1, 6, (3, 4)), draw.standard_normal((3, 4))
    order = np.array([2, 0, 3, 1])
    terms, gradient = of_sums(sums, lengths, reward)
    moved, of_moved = of_sums(sums[:, order], lengths[:, order], reward[:, order])
    np.testing.assert_allclose(moved.loss, terms.loss, rtol=1e-6)
    np.testing.assert_allclose(of_moved, gradient[:, order], rtol=1e-5, atol=1e-7)


def test_filler_between_the_responses_changes_nothing():
    sums, lengths, reward = [[-6.0, 0.0, -8.0, -9.0]], [[3, 0, 4, 3]], [[2.0, 9.0, 0.5, -1.0]]
    terms, gradient = of_sums(sums, lengths, reward, valid=[[True, False, True, True]])
    np.testing.assert_allclose(terms.loss[0], CASES["pro_11_listwise"][1]["total"], rtol=1e-6)
    assert not gradient[0, 1] and (np.delete(gradient, 1) != 0).all()


def test_a_group_of_one_response_has_no_weight():
    terms, _ = of_sums([[-1.0, -2.0], [-1.0, 0.0]], [[2, 2], [2, 0]], [[1.0, 0.0], [1.0, 0.0]], valid=[[True, True], [True, False]])
    np.testing.assert_array_equal(terms.weight, [1, 0])
    assert np.isfinite(terms.loss).all()


def test_equal_rewards_are_not_compared_and_the_first_is_imitated():
    terms, gradient = of_sums([[-4.0, -2.0]], [[2, 2]], [[0.5, 0.5]])
    np.testing.assert_allclose(terms.loss, 0.05 * 4.0, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.05, 0]], rtol=1e-6)


def test_the_accuracy_counts_pairs_of_unequal_reward():
    terms, _ = of_sums([[-1.0, -2.0, -3.0]], [[2, 2, 1]], [[0.5, 1.0, 0.5]])
    value, weight = terms.metrics["rewards/accuracies"]
    assert weight.sum() == 2 and np.average(value, weights=weight) == 0.5


def test_a_tie_is_half_right():
    terms, _ = of_sums([[-2.0, -4.0]], [[1, 2]], [[1.0, 0.0]])  # -2 per token on both sides
    value, weight = terms.metrics["rewards/accuracies"]
    assert weight.sum() == 1 and np.average(value, weights=weight) == 0.5


@pytest.mark.parametrize("logit", [800.0, -800.0])
def test_loss_and_gradient_are_finite_at_a_huge_logit(logit):
    terms, gradient = of_sums([[logit, 0.0]], [[1, 1]], [[1.0, 0.0]])
    assert np.isfinite(terms.loss).all() and np.isfinite(gradient).all()


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="'pro' got groups of one response"):
        of_sums([[-1.0]], [[1]], [[1.0]])
    with pytest.raises(ValueError, match="'pro' got sft_weight=-1"):
        of_sums([[-1.0, -2.0]], [[1, 1]], [[1.0, 0.0]], sft_weight=-1.0)

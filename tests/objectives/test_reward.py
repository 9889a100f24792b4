"""The Bradley-Terry reward objective: vector R1, lists written out, ties, filler, margins from a column, and what it refuses."""

import json
import pathlib

import jax
import jax.numpy as jnp
from losses import batch, metric
import numpy as np
import pytest

from jaxalign import objectives
from jaxalign.training.metrics import rankings
from jaxalign.types import Outputs

(R1,) = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "vectors-reward.json").read_text())["cases"]
PAIRS = np.stack([R1["inputs"]["chosen"], R1["inputs"]["rejected"]], 1)
MARGINS = np.stack([R1["inputs"]["margin"], np.zeros(3)], 1)


def evaluate(rewards, feedback, *, valid=None, columns=None, **hparams):
    """(terms, mean loss over prompts, its gradient to the rewards [N, K])"""
    rewards = jnp.asarray(rewards, jnp.float32)
    of = batch(*rewards.shape, reward=feedback, valid=valid)
    of = of.replace(columns={name: jnp.asarray(value, jnp.float32) for name, value in (columns or {}).items()})

    def mean(rewards):
        terms = objectives.bind("reward", **hparams).terms(Outputs(jnp.zeros(of.slots.shape), rewards=rewards), None, of, {})
        return jnp.sum(terms.loss * terms.weight) / jnp.maximum(jnp.sum(terms.weight), 1.0), terms

    (value, terms), gradient = jax.jit(jax.value_and_grad(mean, has_aux=True))(rewards)
    return terms, value, gradient


def test_vector_r1_comes_out():
    feedback, expected = np.tile([1.0, 0.0], (3, 1)), R1["expected"]
    plain = evaluate(PAIRS, feedback)
    np.testing.assert_allclose(plain[1], expected["loss_plain"], rtol=1e-6)
    np.testing.assert_allclose(metric(plain[0], "rewards/accuracies"), expected["accuracy_half_ties"])
    options = dict(margin_column="margin", columns={"margin": MARGINS})
    np.testing.assert_allclose(evaluate(PAIRS, feedback, **options)[1], expected["loss_margin"], rtol=1e-6)
    _, total, gradient = evaluate(PAIRS, feedback, centering=R1["inputs"]["center_coef"], **options)
    np.testing.assert_allclose(total, expected["loss_total"], rtol=1e-6)
    np.testing.assert_allclose(gradient, np.stack([expected["grad_chosen"], expected["grad_rejected"]], 1), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, dict(margin=0.7, centering=0.01, label_smoothing=0.2), dict(margin_column="reward")], ids=str)
def test_a_list_is_the_mean_over_its_pairs_whatever_the_order_and_filler(options):
    draw = np.random.default_rng(0)
    rewards, feedback, valid = draw.standard_normal((4, 5)), draw.integers(0, 9, (4, 5)) / 8, draw.random((4, 5)) < 0.8
    e, c = options.get("label_smoothing", 0.0), options.get("centering", 0.0)
    expected = []
    for r, f, v in zip(rewards, feedback, valid, strict=True):
        losses = []
        for i, j in np.ndindex(5, 5):
            if v[i] and v[j] and f[i] > f[j]:
                z = r[i] - r[j] - options.get("margin", 0.0) - (f[i] - f[j] if "margin_column" in options else 0.0)
                losses.append((1 - e) * np.logaddexp(0, -z) + e * np.logaddexp(0, z) + c * (r[i] + r[j]) ** 2)
        expected.append(np.mean(losses))
    terms, _, gradient = evaluate(rewards, feedback, valid=valid, **options)
    np.testing.assert_allclose(terms.loss, expected, rtol=1e-5)
    assert terms.weight.tolist() == [1, 1, 1, 1] and not np.any(np.where(valid, 0, gradient))
    order = np.array([3, 0, 4, 1, 2])
    moved, _, of_moved = evaluate(rewards[:, order], feedback[:, order], valid=valid[:, order], **options)
    np.testing.assert_allclose(moved.loss, terms.loss, rtol=1e-6)
    np.testing.assert_allclose(of_moved, gradient[:, order], rtol=1e-5, atol=1e-7)


def test_equal_feedback_and_single_responses_have_no_weight():
    terms, value, gradient = evaluate(
        [[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]], [[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]], valid=[[True, True], [True, False], [True, True]]
    )
    assert terms.weight.tolist() == [0, 0, 1] and not np.any(gradient[:2])
    np.testing.assert_allclose(value, np.logaddexp(0, -1.0), rtol=1e-6)


def test_a_tie_counts_half_here_and_in_the_headline():
    rewards, feedback = [[1.0, 1.0], [2.0, 1.0], [1.0, 3.0]], np.tile([1.0, 0.0], (3, 1))
    terms, *_ = evaluate(rewards, feedback)
    assert metric(terms, "rewards/accuracies") == 0.5
    of = batch(3, reward=feedback)
    outputs = Outputs(jnp.zeros(of.slots.shape), rewards=jnp.asarray(rewards))
    found = rankings(outputs, None, of)
    assert found.keys() == {"accuracy", "ranking/length"}
    value, weight = found["accuracy"]
    assert np.average(value, weights=weight) == 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(margin=-1.0), "margin=-1.0; it must be >= 0"),
        (dict(centering=float("nan")), "centering=nan; it must be >= 0"),
        (dict(margin=float("inf")), "margin=inf; it must be >= 0 and finite"),
        (dict(label_smoothing=0.5), "label_smoothing=0.5; it is the share of wrong labels"),
        (dict(margin_column="gap"), "reads column 'gap' but the batch has"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        evaluate([[1.0, 0.0]], [[1.0, 0.0]], **options)


def test_rewards_whose_squares_overflow_have_a_finite_loss():
    for centering in (0.0, 0.01):  # the sum of the two is 0
        _, value, gradient = evaluate([[-1e30, 1e30]], [[1.0, 0.0]], centering=centering)
        assert value == pytest.approx(2e30) and np.isfinite(gradient).all()


def test_responses_without_company_and_models_without_a_head_are_refused():
    with pytest.raises(ValueError, match="give pairs or ranked lists"):
        evaluate([[1.0]], [[1.0]])
    of = batch(1)
    with pytest.raises(ValueError, match="set model.reward_head='linear'"):
        objectives.bind("reward").terms(Outputs(jnp.zeros(of.slots.shape)), None, of, {})


def test_the_column_of_the_margin_is_read():
    assert objectives.bind("reward", margin_column="gap").reads[-1] == "columns.gap"
    assert objectives.bind("reward", margin_column="reward").reads == objectives.bind("reward").reads

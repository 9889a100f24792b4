"""Pairwise objectives against the golden vectors and against their formulas in float64."""

import jax
import jax.numpy as jnp
from losses import TRUST_REGION, VECTORS, batch, evaluate, metric, outputs
import numpy as np
import pytest
import toys

from jaxalign import sharding
from jaxalign.lm_head import logps
from jaxalign.objectives.families import pairs

NOISY = ["cdpo", "rdpo"]
REFERENCE_FREE = ["simpo", "orpo", "cpo", "cpo_simpo"]
LENGTHS = np.array([[10, 8], [20, 25], [5, 6]])


def softplus(x):
    return np.logaddexp(0, x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def exo(m, eps):
    p = sigmoid(m)
    return p * np.log(p / (1 - eps)) + (1 - p) * np.log((1 - p) / eps)


def odds(a):
    return np.log(np.exp(a) / (1 - np.exp(a)))


# name -> (hyper-parameters, the loss of float64 log-ratios rho, log-probs y and lengths n, [pairs, 2] each)
FORMULAS = {
    "dpo": ({"beta": 0.3}, lambda r, y, n: softplus(-0.3 * (r[:, 0] - r[:, 1]))),
    "cdpo": (
        {"label_smoothing": 0.2},
        lambda r, y, n: 0.8 * softplus(-0.1 * (r[:, 0] - r[:, 1])) + 0.2 * softplus(0.1 * (r[:, 0] - r[:, 1])),
    ),
    "rdpo": (
        {"label_smoothing": 0.2},
        lambda r, y, n: (0.8 * softplus(-0.1 * (r[:, 0] - r[:, 1])) - 0.2 * softplus(0.1 * (r[:, 0] - r[:, 1]))) / 0.6,
    ),
    "ipo": ({"tau": 0.2}, lambda r, y, n: (r[:, 0] / n[:, 0] - r[:, 1] / n[:, 1] - 2.5) ** 2),
    "hinge": ({"beta": 0.2}, lambda r, y, n: np.maximum(0, 1 - 0.2 * (r[:, 0] - r[:, 1]))),
    "dpo_norm": ({}, lambda r, y, n: softplus(-5 * (r[:, 0] / n[:, 0] - r[:, 1] / n[:, 1]))),
    "r_dpo": ({"alpha": 0.05}, lambda r, y, n: -np.log(sigmoid(0.1 * (r[:, 0] - r[:, 1]) + 0.05 * (n[:, 0] - n[:, 1])))),
    "dpop": ({"lam": 5.0}, lambda r, y, n: softplus(-0.1 * (r[:, 0] - r[:, 1] - 5 * np.where(r[:, 0] < 0, -r[:, 0], 0)))),
    "dpo_nll": ({"alpha": 0.7}, lambda r, y, n: softplus(-0.1 * (r[:, 0] - r[:, 1])) - 0.7 * y[:, 0] / n[:, 0]),
    "simpo": ({"gamma": 0.5}, lambda r, y, n: -np.log(sigmoid(2 * (y[:, 0] / n[:, 0] - y[:, 1] / n[:, 1]) - 0.5))),
    "cpo": ({"alpha": 0.7}, lambda r, y, n: softplus(-0.1 * (y[:, 0] - y[:, 1])) - 0.7 * y[:, 0] / n[:, 0]),
    "cpo_simpo": (
        {"gamma": 0.5, "alpha": 0.7},
        lambda r, y, n: softplus(-2 * (y[:, 0] / n[:, 0] - y[:, 1] / n[:, 1]) + 0.5) - 0.7 * y[:, 0] / n[:, 0],
    ),
    "orpo": ({"lam": 0.3}, lambda r, y, n: -y[:, 0] / n[:, 0] - 0.3 * np.log(sigmoid(odds(y[:, 0] / n[:, 0]) - odds(y[:, 1] / n[:, 1])))),
    "nca": ({}, lambda r, y, n: softplus(-0.01 * r[:, 0]) + softplus(0.01 * r[:, 0]) / 2 + softplus(0.01 * r[:, 1]) / 2),
    "apo_zero": ({}, lambda r, y, n: 1 - sigmoid(0.1 * r[:, 0]) + sigmoid(0.1 * r[:, 1])),
    "apo_down": ({}, lambda r, y, n: sigmoid(0.1 * r[:, 0]) + 1 - sigmoid(0.1 * (r[:, 0] - r[:, 1]))),
    "exo": ({"label_smoothing": 0.05}, lambda r, y, n: exo(0.1 * (r[:, 0] - r[:, 1]), 0.05)),
    "sppo": ({"beta": 0.05}, lambda r, y, n: (r[:, 0] - 10) ** 2 + (r[:, 1] + 10) ** 2),
    "discopop": (
        {"tau": 0.4},
        lambda r, y, n: (
            (1 - sigmoid(0.125 * (r[:, 0] - r[:, 1]))) * softplus(-0.05 * (r[:, 0] - r[:, 1]))
            + sigmoid(0.125 * (r[:, 0] - r[:, 1])) * np.exp(-0.05 * (r[:, 0] - r[:, 1]))
        ),
    ),
}
PAIRWISE = list(FORMULAS)
AT_START = {  # policy and reference are equal, defaults; reference-free: both sides have the same log-prob a token, -0.5
    "ipo": 25.0, "hinge": 1.0, "nca": 2 * np.log(2), "apo_zero": 1.0, "apo_down": 1.0, "sppo": 500_000.0,
    "exo": -np.log(2) - (np.log(0.999) + np.log(0.001)) / 2, "discopop": (np.log(2) + 1) / 2, "dpo_nll": np.log(2) + 0.5,
    "simpo": softplus(1.0), "cpo_simpo": softplus(1.0) + 0.5, "orpo": 0.5 + 0.1 * np.log(2),
}  # fmt: skip


def sides(given, who):
    return np.stack([given[f"{who}_chosen"], given[f"{who}_rejected"]], axis=1)


def lengths(given):
    return np.stack([given["len_chosen"], given["len_rejected"]], axis=1).astype(int)


@pytest.mark.parametrize("vector", ["dpo_sigmoid", "cdpo_eps0.1", "rdpo_eps0.1"])
def test_the_golden_losses_gradients_and_metrics_come_out(vector):
    given, expected = VECTORS[vector]
    hparams = {key: given[key] for key in ("beta", "label_smoothing") if key in given}
    terms, loss, to_policy, to_reference, _ = evaluate(
        vector.split("_")[0], sides(given, "policy"), sides(given, "ref"), batch(3), **hparams
    )
    np.testing.assert_allclose(terms.loss, expected["per_example_loss"], rtol=1e-6)
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(to_policy, sides(expected, "grad_policy"), rtol=1e-6)
    assert not to_reference.any()
    of_dpo = VECTORS["dpo_sigmoid"][1]  # rewards do not depend on the smoothing
    np.testing.assert_allclose(terms.metrics["rewards/chosen"][0], of_dpo["reward_chosen"], rtol=1e-6)
    np.testing.assert_allclose(terms.metrics["rewards/rejected"][0], of_dpo["reward_rejected"], rtol=1e-6)
    # the file counts its tie as wrong, and a tie is half right
    assert metric(terms, "rewards/accuracies") == pytest.approx(of_dpo["accuracy"] + ties(given) / 2)
    np.testing.assert_allclose(metric(terms, "rewards/margins"), of_dpo["margin"], rtol=1e-6)


def ties(given):
    """Share of pairs whose sides have gained equally."""
    return np.mean((sides(given, "policy") - sides(given, "ref")) @ [1, -1] == 0)


@pytest.mark.parametrize(("form", "length_normalised"), [("sum", False), ("mean", True)])
def test_the_golden_losses_and_gradients_of_both_forms_of_ipo_come_out(form, length_normalised):
    given, expected = VECTORS["ipo_sum_and_mean"]
    of = batch(3, lengths=lengths(given))
    policy, reference = sides(given, "policy"), sides(given, "ref")
    terms, loss, gradient, _, _ = evaluate("ipo", policy, reference, of, tau=given["tau"], length_normalised=length_normalised)
    np.testing.assert_allclose(terms.loss, expected[f"per_example_{form}"], rtol=1e-6)
    np.testing.assert_allclose(loss, expected[f"loss_{form}"], rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], expected[f"grad_policy_chosen_{form}"], rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 1], expected[f"grad_policy_rejected_{form}"], rtol=1e-6)
    assert metric(terms, "margins/target") == pytest.approx(5.0)


@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_the_golden_losses_next_to_a_reset_reference_come_out(name):
    given, expected = TRUST_REGION["inputs"], TRUST_REGION["expected"][name]
    policy, reference = (np.stack([given[f"{model}_{side}_logps"] for side in ("chosen", "rejected")], 1) for model in ("policy", "ref"))
    hparams = {"dpo": {"beta": given["beta"]}, "ipo": {"tau": given["beta"], "length_normalised": False}}[name]
    terms, loss, gradient, _, _ = evaluate(name, policy, reference, batch(3), **hparams)
    np.testing.assert_allclose(terms.loss, expected["per_pair"], rtol=1e-6)
    np.testing.assert_allclose(loss, expected["mean"], rtol=1e-6)
    np.testing.assert_allclose(gradient, np.outer(expected["grad_policy_chosen"], [1, -1]), rtol=1e-6)
    known = TRUST_REGION["expected"]["metrics"]
    np.testing.assert_allclose(terms.metrics["rewards/margins"][0], given["beta"] * (policy - reference) @ [1, -1], rtol=1e-6, atol=1e-7)
    assert metric(terms, "rewards/margins") == pytest.approx(known["margins_mean"], rel=1e-6)
    assert metric(terms, "rewards/accuracies") == pytest.approx(known["accuracy"] + np.mean((policy - reference) @ [1, -1] == 0) / 2)
    for side in ("chosen", "rejected"):
        np.testing.assert_allclose(terms.metrics[f"rewards/{side}"][0], known[f"rewards_{side}"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("key", "name", "hparams"),
    [
        ("simpo", "simpo", {"beta": 2.0, "gamma": 1.0}),
        ("cpo_sigmoid", "cpo", {"beta": 0.1, "alpha": 0.0}),
        ("hinge", "hinge", {"beta": 0.1}),
        ("nca_pair", "nca", {"beta": 0.1}),
        ("apo_zero", "apo_zero", {"beta": 0.1}),
        ("apo_down", "apo_down", {"beta": 0.1}),
        ("sppo_hard", "sppo", {"beta": 0.1}),
        ("exo_pair", "exo", {"beta": 0.1, "label_smoothing": 0.001}),
        ("sigmoid_norm", "dpo_norm", {"beta": 0.1}),
    ],
)
def test_the_golden_losses_of_the_peers_come_out(key, name, hparams):
    given, expected = VECTORS["peer_losses"]
    _, loss, _, _, _ = evaluate(name, sides(given, "policy"), sides(given, "ref"), batch(3, lengths=lengths(given)), **hparams)
    np.testing.assert_allclose(loss, expected[key], rtol=1e-6)


def test_the_golden_odds_of_orpo_come_out():
    given, expected = VECTORS["peer_losses"]
    terms, *_ = evaluate("orpo", sides(given, "policy"), sides(given, "ref"), batch(3, lengths=lengths(given)))
    np.testing.assert_allclose(softplus(-np.asarray(terms.metrics["margins/log_odds"][0])).mean(), expected["orpo_or_term"], rtol=1e-6)


@pytest.mark.parametrize("name", PAIRWISE)
def test_losses_and_gradients_are_those_of_the_formula_in_float64(name):
    hparams, formula = FORMULAS[name]
    given, _ = VECTORS["peer_losses"]
    policy, reference = sides(given, "policy") + 0.25, sides(given, "ref")  # off the kink of dpop, where the third pair stands
    terms, _, to_policy, to_reference, _ = evaluate(name, policy, reference, batch(3, lengths=LENGTHS), **hparams)
    np.testing.assert_allclose(terms.loss, formula(policy - reference, policy, LENGTHS), rtol=1e-6)
    step = 1e-4
    for side in range(2):
        shift = np.zeros(2)
        shift[side] = step
        up, down = (formula(policy + s - reference, policy + s, LENGTHS) for s in (shift, -shift))
        np.testing.assert_allclose(to_policy[:, side], (up - down) / (2 * step) / 3, rtol=2e-6, atol=1e-8)
    assert not to_reference.any()


@pytest.mark.parametrize("name", PAIRWISE)
def test_the_loss_where_policy_and_reference_are_equal_is_the_documented_one(name):
    same = [[-5.0, -4.0], [-10.0, -12.5]]  # -1/2 a token
    terms, *_ = evaluate(name, same, same, batch(2, lengths=[[10, 8], [20, 25]]), **({"alpha": 0.0} if name == "r_dpo" else {}))
    expected = AT_START.get(name, np.log(2))
    if name == "cpo":  # its margin is of whole responses: -1 and 2.5 nats
        expected = 0.5 + softplus(-0.1 * np.array([-1.0, 2.5]))
    np.testing.assert_allclose(terms.loss, np.broadcast_to(expected, 2), rtol=1e-6)
    if name not in REFERENCE_FREE:
        assert metric(terms, "rewards/accuracies") == 0.5  # a tie is half right


def test_the_optimal_policy_under_a_price_on_length_has_the_preferences_of_r_dpo():
    reward, tokens, prior = np.array([1.0, 0.2]), np.array([[30, 10]]), np.log([0.3, 0.7])
    beta, alpha = 0.5, 0.04
    best = prior + (reward - alpha * tokens[0]) / beta
    best -= np.log(np.exp(best).sum())
    terms, *_ = evaluate("r_dpo", best[None], prior[None], batch(1, lengths=tokens), beta=beta, alpha=alpha)
    np.testing.assert_allclose(np.exp(-terms.loss), sigmoid(reward[0] - reward[1]), rtol=1e-5)  # Bradley-Terry of the unpenalised reward


def test_cdpo_stands_still_at_the_golden_margin():
    margin = VECTORS["cdpo_eps0.1"][1]["stationary_delta"]
    _, _, gradient, _, _ = evaluate("cdpo", [[margin, 0.0]], [[0.0, 0.0]], batch(1), beta=0.1, label_smoothing=0.1)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-8)


def test_rdpo_is_negative_at_a_large_margin():
    _, loss, *_ = evaluate("rdpo", [[200.0, 0.0]], [[0.0, 0.0]], batch(1), beta=0.1, label_smoothing=0.1)
    np.testing.assert_allclose(loss, VECTORS["rdpo_eps0.1"][1]["loss_at_delta_200"], rtol=1e-6)


@pytest.mark.parametrize("name", [*NOISY, "r_dpo", "dpop", "dpo_nll"])
def test_dpo_is_the_special_case(name):
    policy, reference = [[-12.0, -19.0], [-3.5, -4.0]], [[-13.0, -12.0], [-3.0, -5.0]]
    option = {"r_dpo": "alpha", "dpop": "lam", "dpo_nll": "alpha"}.get(name, "label_smoothing")
    terms, *_ = evaluate(name, policy, reference, batch(2), **{option: 0.0})
    np.testing.assert_allclose(terms.loss, evaluate("dpo", policy, reference, batch(2))[0].loss, rtol=1e-6)


def test_means_a_token_count_scored_tokens():
    of = batch(2, lengths=[[4, 2], [1, 0]])
    both = pairs.pairs(outputs([[-2.0, -3.0], [-1.0, 0.0]], of), None, of)
    np.testing.assert_allclose(both.per_token().log_ratios, [[-0.5, -1.5], [-1.0, 0.0]])
    np.testing.assert_allclose(both.nll, [0.5, 1.0])


def test_the_golden_token_log_probs_come_out():
    given, expected = VECTORS["sequence_logprob_shift_mask"]
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

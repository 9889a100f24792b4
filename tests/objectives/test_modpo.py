"""MODPO: the golden vectors, its limits, and what it refuses."""

import jax
import jax.numpy as jnp
from modpo_vectors import CASES, outputs, responses
import numpy as np
import pytest
import toys

from jaxalign import objectives, sharding
from jaxalign.lm_head import logps

PAIRS = ["modpo_1_two_objectives_single_pair", "modpo_2_reduces_to_dpo", "modpo_3_three_objectives_batch_mean", "modpo_5_extreme_values"]
KINDS = ["modpo", "modpo_hinge"]


def sides(given, kind):
    return np.stack([given[f"{kind}_chosen_logp"], given[f"{kind}_rejected_logp"]], axis=1)


def margin_columns(given):
    both = np.stack([given["chosen_margin"], given["rejected_margin"]], axis=1)  # [N, 2, objectives - 1]
    return {f"margin_{j}": both[:, :, j] for j in range(both.shape[2])}


def evaluate(name, policy, reference, columns, **hparams):
    """(terms, gradients of the mean loss to the log-probs [N, 2] of policy and reference, to the columns)"""
    batch = responses(np.ones((len(policy), 2, 1)), paired=True)
    columns = {key: jnp.asarray(value, jnp.float32) for key, value in columns.items()}
    hparams = {"margins": tuple(columns)} | hparams if name.startswith("modpo") else hparams

    def mean(policy, reference, columns):
        terms = toys.objective(name)[0](outputs(policy), outputs(reference), batch.replace(columns=columns), **hparams)
        return jnp.sum(terms.loss * terms.weight) / jnp.sum(terms.weight), terms

    arrays = jnp.asarray(policy, jnp.float32), jnp.asarray(reference, jnp.float32), columns
    (_, terms), gradients = jax.jit(jax.value_and_grad(mean, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return terms, *gradients


def of_vector(name, case):
    given, expected = CASES[case]
    hparams = {"beta": given["beta"], "weights": tuple(given["w"])}
    return expected, *evaluate(name, sides(given, "policy"), sides(given, "ref"), margin_columns(given), **hparams)


@pytest.mark.parametrize("case", PAIRS)
def test_the_golden_losses_gradients_and_metrics_come_out(case):
    expected, terms, to_policy, _, _ = of_vector("modpo", case)
    metrics = {name: np.asarray(value) for name, (value, _) in terms.metrics.items()}
    np.testing.assert_allclose(terms.loss, expected["per_example_loss"], rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(np.average(terms.loss, weights=terms.weight), expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(to_policy[:, 0], expected["grad_policy_chosen_logp"], rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(to_policy[:, 1], expected["grad_policy_rejected_logp"], rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(metrics["implied/margins"], expected["logit"], rtol=1e-6)
    np.testing.assert_allclose(metrics["implied/chosen"], expected["implied_reward_chosen"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(metrics["implied/rejected"], expected["implied_reward_rejected"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(metrics["implied/accuracies"].mean(), expected["accuracy"])


def test_the_golden_hinge_comes_out():
    expected, terms, to_policy, _, _ = of_vector("modpo_hinge", "modpo_3_three_objectives_batch_mean")
    np.testing.assert_allclose(terms.loss, expected["hinge"]["per_example_loss"], rtol=1e-6)
    np.testing.assert_allclose(to_policy[:, 0], expected["hinge"]["grad_policy_chosen_logp"], rtol=1e-6)
    np.testing.assert_allclose(to_policy[:, 1], expected["hinge"]["grad_policy_rejected_logp"], rtol=1e-6)


def test_the_golden_chain_from_logits_over_an_implicit_margin_comes_out():
    given, expected = CASES["modpo_4_logits_to_loss_implicit_margin"]
    labels = np.array(given["labels"], np.int32)
    scored = labels != given["label_pad"]
    scored[:, 0] = False
    with jax.set_mesh(toys.mesh()):
        place = lambda x, *axes: jax.device_put(jnp.asarray(x), sharding.named(sharding.spec(*axes)))  # noqa: E731
        # hidden states that are the logits, and a head that is the identity
        values = logps.token_logps(
            place(np.array(given["policy_logits"], np.float32), "rows", None, None), place(np.eye(3, dtype=np.float32), "vocab", "embed"),
            place(np.where(scored, labels, 0), "rows", None), place(scored, "rows", None), vocab_size=3,
        )  # fmt: skip
    np.testing.assert_allclose(values[:, 1:], expected["per_token_logp"], rtol=1e-6)
    policy = np.asarray(values).sum(1)[None]
    np.testing.assert_allclose(policy[0], expected["policy_seq_logp"], rtol=1e-6)
    margin = given["beta_margin"] * (np.array(given["margin_model_seq_logp"]) - given["ref_seq_logp"])
    np.testing.assert_allclose(margin, expected["margin_reward"], rtol=1e-6)
    hparams = {"beta": given["beta"], "weights": tuple(given["w"])}
    terms, *_ = evaluate("modpo", policy, np.array([given["ref_seq_logp"]]), {"margin": margin[None]}, **hparams)
    np.testing.assert_allclose(terms.metrics["implied/margins"][0], expected["logit"], rtol=1e-6)
    np.testing.assert_allclose(terms.loss, expected["loss"], rtol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_no_gradient_reaches_reference_and_margins(name):
    _, _, to_policy, to_reference, to_columns = of_vector(name, "modpo_3_three_objectives_batch_mean")
    assert to_policy.any() and not to_reference.any() and not any(x.any() for x in to_columns.values())


def drawn(seed=0, count=5):
    draw = np.random.default_rng(seed)
    return 20 * draw.standard_normal((count, 2)), 20 * draw.standard_normal((count, 2)), {"margin": draw.standard_normal((count, 2))}


def assert_equal_terms(ours, theirs):
    np.testing.assert_allclose(ours[0].loss, theirs[0].loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_only_weights_over_beta_matters(factor):
    ours = evaluate("modpo", *drawn(), beta=0.1 * factor, weights=(0.3 * factor, 0.9 * factor))
    assert_equal_terms(ours, evaluate("modpo", *drawn(), beta=0.1, weights=(0.3, 0.9)))


def test_all_weight_on_the_pairs_is_dpo_in_loss_gradient_and_rewards():
    ours, theirs = evaluate("modpo", *drawn(), weights=(1.0, 0.0)), evaluate("dpo", *drawn())
    assert_equal_terms(ours, theirs)
    for name, (value, _) in theirs[0].metrics.items():
        np.testing.assert_array_equal(ours[0].metrics[name][0], value, err_msg=name)


def test_equal_margins_on_both_sides_are_dpo_with_beta_over_the_weight():
    policy, reference, columns = drawn()
    columns = {"margin": np.repeat(columns["margin"][:, :1], 2, axis=1)}
    assert_equal_terms(
        evaluate("modpo", policy, reference, columns, beta=0.1, weights=(0.4, 0.6)), evaluate("dpo", policy, reference, {}, beta=0.25)
    )


def test_a_constant_of_the_prompt_in_a_margin_changes_nothing():
    policy, reference, columns = drawn()
    shifted = {"margin": columns["margin"] + np.arange(len(policy))[:, None]}
    assert_equal_terms(evaluate("modpo", policy, reference, shifted), evaluate("modpo", policy, reference, columns))


def test_a_margin_times_c_is_its_weight_times_c():
    policy, reference, columns = drawn()
    ours = evaluate("modpo", policy, reference, {"margin": 3 * columns["margin"]}, weights=(0.5, 0.2))
    assert_equal_terms(ours, evaluate("modpo", policy, reference, columns, weights=(0.5, 0.6)))


def test_with_exact_margins_the_optimum_tilts_the_reference_by_the_weighted_rewards():
    draw = np.random.default_rng(2)
    reference = np.log(draw.dirichlet(np.ones(4)))
    mine, other, weights, beta = draw.standard_normal(4), draw.standard_normal(4), (0.6, 0.4), 0.5
    optimum = reference + (weights[0] * mine + weights[1] * other) / beta
    chosen, rejected = (x.reshape(-1) for x in np.meshgrid(np.arange(4), np.arange(4)))
    pick = lambda values: np.stack([values[chosen], values[rejected]], axis=1)  # noqa: E731
    _, gradient, _, _ = evaluate("modpo", pick(optimum), pick(reference), {"margin": pick(other)}, beta=beta, weights=weights)
    # infinitely many Bradley-Terry pairs: every ordered pair with its probability under the reward of weight 0
    share = 1 / (1 + np.exp(mine[rejected] - mine[chosen]))
    to_response = np.zeros(4)
    np.add.at(to_response, chosen, share * gradient[:, 0])
    np.add.at(to_response, rejected, share * gradient[:, 1])
    np.testing.assert_allclose(to_response, 0, atol=1e-8)
    assert np.abs(gradient).max() > 1e-3


def test_margins_that_speak_against_the_label_are_counted():
    same = np.zeros((3, 2))
    terms, *_ = evaluate("modpo", same, same, {"margin": [[0.0, 1.0], [1.0, 0.0], [-200.0, 0.0]]}, weights=(0.5, 0.5))
    np.testing.assert_array_equal(terms.metrics["margins/conflict"][0], [1, 0, 1])
    np.testing.assert_array_equal(terms.metrics["margins/saturated"][0], [0, 0, 1])
    np.testing.assert_allclose(terms.metrics["margins/difference"][0], [-0.5, 0.5, -100.0])


def test_a_mixture_with_proportions_w_is_the_sum_of_weighted_means():
    """DPO with mixed losses, sum_i w_i E_Di[loss], is plain DPO on data mixed in the proportions w_i: no objective of its own."""
    given, expected = CASES["mo_baselines_6"]
    first, second = (given["dpo_lw"][f"dpo_loss_on_D{i}"] for i in (1, 2))
    counts = [round(10 * weight) for weight in given["dpo_lw"]["w"]]
    losses = np.concatenate([np.tile(source, count) for source, count in zip((first, second), counts, strict=True)])
    # beta h of a pair with this loss, from loss = softplus(-beta h)
    margin = -np.log(np.expm1(losses)) / 0.1
    terms, *_ = evaluate("dpo", np.stack([margin, 0 * margin], axis=1), np.zeros((len(losses), 2)), {}, beta=0.1)
    np.testing.assert_allclose(np.average(terms.loss, weights=terms.weight), expected["dpo_lw_loss"], rtol=1e-6)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"weights": (0.0, 1.0)}, "must be above 0. The policy of weight 0 is the DPO model of the other objective"),
        ({"weights": (-0.5, 1.0)}, "must be above 0"),
        ({"weights": ()}, "must be above 0"),
        ({"weights": ("a", "b")}, "they are numbers"),
        ({"weights": (0.5, 0.25, 0.25)}, "one for every margin"),
        ({"margins": ("helpful",)}, r"reads column 'helpful' but the batch has \('margin',\)"),
        ({"beta": 0.0}, "objective.beta=0.0 is not above 0"),
    ],
)  # fmt: skip
def test_weights_and_margins_that_do_not_fit_are_refused(name, hparams, message):
    with pytest.raises(ValueError, match=message):
        evaluate(name, *drawn(), **hparams)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("logit", [800.0, -800.0])
def test_loss_and_gradient_are_finite_at_a_huge_logit(name, logit):
    terms, gradient, *_ = evaluate(name, [[logit, 0.0]], np.zeros((1, 2)), {"margin": np.zeros((1, 2))}, beta=1.0, weights=(1.0, 1.0))
    assert np.isfinite(terms.loss).all() and np.isfinite(gradient).all()


def test_an_incomplete_pair_has_no_weight():
    batch = responses(np.ones((2, 2, 1)), paired=True, valid=[[True, True], [True, False]], margin=np.ones((2, 2)))
    same = outputs(np.zeros((2, 2)))
    terms = toys.objective("modpo")[0](same, same, batch)
    np.testing.assert_array_equal(terms.weight, [1, 0])
    assert all(np.array_equal(weight, [1, 0]) for _, weight in terms.metrics.values())


@pytest.mark.parametrize("name", KINDS)
def test_it_reads_the_margins_that_it_is_given(name):
    assert {"columns.a", "columns.b"} <= set(objectives.bind(name, margins=("a", "b")).reads)
    assert "columns.margin" in objectives.bind(name).reads

"""What every pairwise objective promises at the edges: huge logits, options out of range, groups that are no complete pair."""

import inspect

import jax.numpy as jnp
from losses import batch, evaluate
import numpy as np
import pytest
from test_pairwise_vectors import NOISY, PAIRWISE
import toys


@pytest.mark.parametrize("name", ["ipo", "dpo_norm", "simpo", "orpo", "cpo"])
def test_a_response_without_tokens_has_a_finite_loss_and_gradient(name):
    terms, _, gradient, _, _ = evaluate(name, [[-5.0, 0.0]], [[-4.0, 0.0]], batch(1, lengths=[[3, 0]]))
    assert np.isfinite(terms.loss).all() and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("logps", [[800.0, 0.0], [-800.0, 0.0], [0.0, -800.0], [-800.0, -800.0]], ids=str)
def test_loss_and_gradient_are_finite_at_a_huge_logit(name, logps):
    hparams = {"tau" if name == "ipo" else "lam" if name == "orpo" else "beta": 1.0}
    terms, _, gradient, _, _ = evaluate(name, [logps], [[0.0, 0.0]], batch(1), **hparams)
    assert np.isfinite(terms.loss).all() and np.isfinite(gradient).all()
    assert all(np.isfinite(value).all() for value, _ in terms.metrics.values())


@pytest.mark.parametrize(
    ("name", "hparams"),
    [
        *((name, {"label_smoothing": eps}) for name in NOISY for eps in (-0.1, 0.5, 0.7)),
        *(("exo", {"label_smoothing": eps}) for eps in (0.0, 0.5)),
        ("ipo", {"tau": 0.0}),
        ("sppo", {"beta": 0.0}),
        ("orpo", {"lam": 0.0}),
        ("simpo", {"gamma": -0.5}),
        ("cpo", {"alpha": -1.0}),
        ("cpo_simpo", {"gamma": -1.0}),
        ("cpo_simpo", {"alpha": -1.0}),
        ("dpo_nll", {"alpha": -1.0}),
        ("dpop", {"lam": -1.0}),
        ("r_dpo", {"alpha": -0.1}),
        ("discopop", {"tau": 0.0}),
        ("discopop", {"tau": 1.5}),
    ],
)
def test_a_hyper_parameter_out_of_range_is_refused(name, hparams):
    ((option, value),) = hparams.items()
    with pytest.raises(ValueError, match=rf"(objective '{name}' got .*|objective\.){option}={value}"):
        evaluate(name, [[-1.0, -2.0]], [[-1.0, -2.0]], batch(1), **hparams)


@pytest.mark.parametrize("name", [name for name in PAIRWISE if "beta" in inspect.signature(toys.objective(name)[0]).parameters])
def test_a_beta_of_0_is_refused(name):
    with pytest.raises(ValueError, match=r"beta=0\.0"):
        evaluate(name, [[-1.0, -2.0]], [[-1.0, -2.0]], batch(1), beta=0.0)


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("what", ["unpaired", "no rejected", "no chosen"])
def test_a_group_that_is_no_complete_pair_has_no_weight(name, what):
    of = batch(2, lengths=[[1, 1], [what != "no chosen", what != "no rejected"]])
    if what == "unpaired":
        of = of.replace(paired=jnp.array([True, False]))
    else:
        of = of.replace(valid=of.valid.at[1, int(what == "no rejected")].set(False))
    terms, _, gradient, _, _ = evaluate(name, [[-1.0, -3.0], [-2.0, -1.0]], [[-1.5, -3.0], [-2.5, -1.0]], of)
    np.testing.assert_array_equal(terms.weight, [1.0, 0.0])
    assert all(np.array_equal(weight, [1.0, 0.0]) for _, weight in terms.metrics.values())
    assert np.isfinite(gradient).all() and not gradient[1].any() and gradient[0].any()


def test_groups_of_one_response_are_no_pairs():
    with pytest.raises(ValueError, match="groups of this batch have one response"):
        evaluate("dpo", [[-1.0]], [[-1.0]], batch(1, 1))

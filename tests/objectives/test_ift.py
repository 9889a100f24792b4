"""IFT against the golden vectors, values and gradients, and the identities that packing and its limits promise."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign.data.rows import pack
from jaxalign.objectives.families.discounts import future_sums
from jaxalign.objectives.ift import MODES, ift
from jaxalign.training import forward
from jaxalign.types import Batch, Outputs

VECTORS = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "vectors-tr-ift.json").read_text())
WEIGHTS, GAP = VECTORS["T6_ift_weights"], VECTORS["T7_ift_batch_gap"]
TINY, GRADIENTS = VECTORS["T8_ift_tiny_forward"], VECTORS["T9_ift_tiny_grads"]["expected"]


def one_response_a_row(tokens, mask):
    """Rows of one group with one response; the mask says which tokens are scored."""
    tokens, mask = jnp.asarray(tokens, jnp.int32), jnp.asarray(mask, bool)
    rows, ones = len(tokens), jnp.ones_like(tokens)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    slots = jnp.where(mask, 0, -1).astype(jnp.int32)
    return Batch(tokens, positions, ones, 0 * ones, slots, jnp.ones((rows, 1)), jnp.zeros(rows, bool), jnp.ones((rows, 1), bool))


def of_nll(case, **hparams):
    """(losses [R], gradient of each row's loss in its nll, terms)."""
    nll, mask = jnp.asarray(case["inputs"]["nll_per_token"], jnp.float32), np.asarray(case["inputs"]["mask"])
    batch = one_response_a_row(np.zeros(nll.shape), mask)

    def total(nll):
        terms = ift(Outputs(-nll), None, batch, **hparams)
        return terms.loss.sum(), terms

    gradient, terms = jax.jit(jax.grad(total, has_aux=True))(nll)
    return terms.loss[:, 0], gradient, terms


CASES = [
    ("official_gamma0.95_L1", "grad_nll_through_weights", {}),
    ("official_gamma0.95_L1", "grad_nll_stopgrad_weights", {"mode": "stopgrad_weights"}),
    ("gamma1_L1", "grad_nll_through_weights", {"gamma": 1.0}),
    ("gamma1_L1", "grad_nll_stopgrad_weights", {"gamma": 1.0, "mode": "stopgrad_weights"}),
    ("gamma0 (=SFT)", "grad_nll_through_weights", {"gamma": 0.0}),
    ("gamma0 (=SFT)", "grad_nll_stopgrad_weights", {"gamma": 0.0, "mode": "stopgrad_weights"}),
    *[
        (f"gamma0.95_{name}", f"grad_nll_{part}_weights", {"norm": norm, "mode": mode})
        for name, norm in [("L2", "l2"), ("log", "log"), ("softmax (crashes in official torch code)", "softmax")]
        for part, mode in [("through", "official"), ("stopgrad", "stopgrad_weights")]
    ],
    ("paper_eq21_plain_double_sum", "grad_nll", {"gamma": 1.0, "mode": "eq21"}),
    ("paper_eq21_with_decay_0.95", "grad_nll", {"mode": "eq21"}),
    ("algorithm1_w_dot_L_unnormalised_exponent_i_minus_t", "grad_nll_through_weights", {"mode": "alg1"}),
]


@pytest.mark.parametrize(("name", "key", "hparams"), CASES, ids=lambda x: str(x))
def test_losses_and_gradients_equal_the_vectors(name, key, hparams):
    expected = WEIGHTS["expected"][name]
    loss, gradient, terms = of_nll(WEIGHTS, **hparams)
    np.testing.assert_allclose(loss[0], expected["loss"], rtol=1e-6)
    wanted = np.array(expected[key])
    np.testing.assert_allclose(gradient[0, 1:5], wanted if len(wanted) == 4 else wanted[1:5], rtol=1e-5, atol=1e-6)
    assert not gradient[0, [0, 5]].any()
    value, weight = terms.metrics["weights/negative_gradient"]
    np.testing.assert_allclose(np.average(value, weights=weight), np.mean(wanted[-5:] < 0) * len(wanted[-5:]) / 4)
    if "weights_at_masked_in" in expected:
        share = np.array(expected["weights_at_masked_in"]) / 4
        np.testing.assert_allclose(terms.metrics["weights/largest"][0][0, 0], share.max(), rtol=1e-6)
        np.testing.assert_allclose(terms.metrics["weights/entropy"][0][0, 0], -np.sum(share * np.log(share)), rtol=1e-5)


@pytest.mark.parametrize("mode", ["official", "stopgrad_weights"])
def test_the_discount_runs_on_over_a_gap_between_two_turns(mode):
    expected = GAP["expected"]
    loss, gradient, terms = of_nll(GAP, mode=mode)
    np.testing.assert_allclose(loss, expected["row_losses"], rtol=1e-6)
    key = "grad_nll_through_weights" if mode == "official" else "grad_nll_stopgrad_weights"
    np.testing.assert_allclose(gradient / 2, expected[key], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(terms.metrics["loss/further"][0].mean(), expected["sft_loss"], rtol=1e-6)


def toy_loss(parameters, *, mixing, train_embeddings, **hparams):
    """The objective on the explicit model of the vectors: u_t = x_t + u_{t-1} / 2, h = tanh(W u + b), logits = U h + c."""
    labels = np.asarray(TINY["inputs"]["labels"])
    batch = one_response_a_row(TINY["inputs"]["input_ids"], labels != -100)
    scored = batch.slots >= 0

    def log_probs(x):
        u = [x[:, 0]]
        for t in range(1, x.shape[1]):
            u.append(x[:, t] + TINY["inputs"]["rho"] * u[-1])
        logits = jnp.tanh(jnp.stack(u, 1) @ parameters["W"].T + parameters["b"]) @ parameters["U"].T + parameters["c"]
        return jnp.pad(jax.nn.log_softmax(logits)[:, :-1], ((0, 0), (1, 0), (0, 0)))

    def embed(ids):
        return parameters["E"][ids]

    greedy = jnp.where(scored, log_probs(embed(batch.tokens)).argmax(-1), 0)
    other = jnp.where(scored, greedy, batch.tokens)
    mixed = forward.mix(embed, batch.tokens, other, jnp.asarray(mixing), train_embeddings=train_embeddings)
    picked = jnp.take_along_axis(log_probs(mixed), batch.tokens[:, :, None], 2)[:, :, 0]
    terms = ift(Outputs(jnp.where(scored, picked, 0.0), greedy=greedy), None, batch, **hparams)
    return jnp.sum(terms.loss * terms.weight) / terms.weight.sum(), (other, mixed, terms)


def toy_parameters():
    return {name: jnp.asarray(TINY["inputs"][name]) for name in "EWbUc"}


@pytest.mark.parametrize(
    ("key", "mixing", "gamma"),
    [("ift_loss", 0.2, 0.95), ("ift_loss_lambda0.2_gamma0", 0.2, 0.0), ("pass1_sft_loss", 0.0, 0.0),
     ("ift_loss_lambda0_gamma0.95", 0.0, 0.95), ("ift_loss_lambda1_gamma0.95", 1.0, 0.95)],
)  # fmt: skip
def test_the_whole_of_it_on_an_explicit_model(key, mixing, gamma):
    loss, (other, mixed, terms) = toy_loss(toy_parameters(), mixing=mixing, train_embeddings=False, gamma=gamma)
    expected = TINY["expected"]
    np.testing.assert_allclose(loss, expected[key], rtol=1e-6)
    np.testing.assert_array_equal(other, expected["mixed_second_ids (prompt and pad keep the gold id)"])
    value, weight = terms.metrics["greedy/disagreement"]
    gold, second = np.array(TINY["inputs"]["input_ids"]), np.array(expected["mixed_second_ids (prompt and pad keep the gold id)"])
    np.testing.assert_allclose(np.sum(value * weight), np.sum(gold != second))
    if mixing == 0.2:
        np.testing.assert_allclose(mixed, expected["mixed_embeddings"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("key", "mixing", "hparams"),
    [("official_grad_through_weights", 0.2, {}), ("stopgrad_weights", 0.2, {"mode": "stopgrad_weights"}),
     ("sft_lambda0_gamma0", 0.0, {"gamma": 0.0})],
)  # fmt: skip
@pytest.mark.parametrize("train_embeddings", [False, True])
def test_gradients_on_an_explicit_model(key, mixing, hparams, train_embeddings):
    hparams = {"mixing": mixing, "train_embeddings": train_embeddings, **hparams}
    gradient, _ = jax.jit(jax.grad(lambda p: toy_loss(p, **hparams), has_aux=True))(toy_parameters())
    for name in "WbUc":
        np.testing.assert_allclose(gradient[name], GRADIENTS[key][name], rtol=1e-5, atol=1e-6)
    wanted = np.array(GRADIENTS[key]["E_if_embedding_were_trainable"])
    np.testing.assert_allclose(gradient["E"], wanted if train_embeddings else 0 * wanted, rtol=1e-5, atol=1e-6)


def test_without_mixing_and_discount_it_is_the_mean_over_responses_of_their_mean_loss():
    batch, logps = one_response_a_row(np.zeros((2, 4)), [[0, 1, 1, 1], [0, 0, 0, 1]]), -jnp.arange(8.0).reshape(2, 4)
    terms = ift(Outputs(logps), None, batch, gamma=0.0)
    np.testing.assert_allclose(terms.loss[:, 0], [2.0, 7.0], rtol=1e-6)
    np.testing.assert_array_equal(terms.weight, 1.0)


def test_a_response_without_a_scored_token_weighs_nothing_and_all_zero_losses_are_finite():
    batch = one_response_a_row(np.zeros((2, 3)), [[0, 0, 0], [0, 1, 1]])
    gradient, terms = jax.grad(lambda x: (lambda t: (t.loss.sum(), t))(ift(Outputs(x), None, batch)), has_aux=True)(jnp.zeros((2, 3)))
    np.testing.assert_array_equal(terms.weight[:, 0], [0, 1])
    assert np.isfinite(terms.loss).all() and np.isfinite(gradient).all()


def test_sums_restart_at_the_border_of_a_segment():
    x, segments = jnp.array([[1.0, 2.0, 0.0, 4.0, 8.0, 16.0]]), jnp.array([[1, 1, 1, 1, 2, 2]])
    np.testing.assert_allclose(future_sums(x, segments, 0.5), [[2.5, 3.0, 2.0, 4.0, 16.0, 16.0]])


@pytest.mark.parametrize("hparams", [{"gamma": 1.5}, {"mode": "nothing"}, {"norm": "l3"}, {"norm": "l2", "mode": "alg1"}], ids=str)
def test_hyper_parameters_out_of_range_are_refused(hparams):
    with pytest.raises(ValueError, match="objective 'ift'"):
        ift(Outputs(jnp.zeros((1, 2))), None, one_response_a_row(np.zeros((1, 2)), [[0, 1]]), **hparams)


PLAN = np.array([[0, 1], [2, -1], [3, 4], [-1, 5], [6, 7], [8, 9], [-1, -1], [10, 11]], np.int32)


def on_decoder(mode, arrays, mesh=(1, 1, 1)):
    """(loss, gradient) of IFT with both passes on the tiny decoder."""

    def total(params, batch):
        look = forward.two_pass(
            toys.model(), params, batch, 0, mixing=0.5, train_embeddings=True, dtype=jnp.float32, remat="none", attention="xla"
        )
        terms = ift(look, None, batch, mode=mode)
        return jnp.sum(terms.loss * terms.weight) / terms.weight.sum()

    with jax.set_mesh(toys.mesh(mesh)):
        return jax.device_get(jax.jit(jax.value_and_grad(total))(toys.place_params(toys.params(0)), toys.place(arrays)))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES if os.environ.get("SWEEP") else ("official", "eq21"))  # what the decoder gives is the same for all
def test_packed_and_unpacked_shared_and_repeated_prompts_are_the_same_on_a_mesh(mode):
    text, alone = toys.groups(12, seed=3), np.arange(12, dtype=np.int32)[:, None]
    expected, expected_gradient = on_decoder(mode, pack.assemble(text, PLAN, row_tokens=64, share_prompt=True))
    value, gradient = on_decoder(mode, pack.assemble(text, alone, row_tokens=96, share_prompt=False), (2, 2, 2))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())

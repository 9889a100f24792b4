"""Distillation: reductions against the vector, what its options mean, and its policy gradient against the exact KL of whole texts."""

import functools
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
from losses import batch
import numpy as np
import pytest
import toys

from jaxalign import objectives
from jaxalign.types import Outputs

VECTORS = {case["id"]: case for case in json.loads((Path(__file__).parents[1] / "golden" / "vectors-distill.json").read_text())["cases"]}


@pytest.fixture(autouse=True)
def on_one_device():
    with jax.set_mesh(toys.mesh()):
        yield


def seen(name):
    """(student, teacher, batch) of the second vector: two responses in two rows, every token after a place that is not scored."""
    inputs = VECTORS["D2"]["inputs"]
    logits = {side: np.array(inputs[f"{side}_logits"]) for side in ("student", "teacher")}
    lengths = np.array(inputs["mask"]).sum(1).astype(int)[:, None]
    of = batch(2, 1, lengths=lengths, paired=False)
    before = jnp.full((2, 1), -1, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(4), (2, 4))
    fields = {"slots": jnp.concatenate([before, of.slots], 1), "positions": positions}
    of = of.replace(**{key: jnp.zeros((2, 4), jnp.int32) for key in ("tokens", "segments", "prefixes")}, **fields)

    def outputs(values):
        hidden = jnp.asarray(np.concatenate([values, np.zeros((2, 1, 3))], 1), jnp.float32)
        logps = jnp.where(of.slots >= 0, jnp.pad(jax.nn.log_softmax(hidden)[:, :-1, 0], ((0, 0), (1, 0))), 0.0)
        return Outputs(logps, hidden, jnp.eye(3), vocab_size=3)

    return outputs(logits["student"]), outputs(logits["teacher"]), of


def mean(values, weight):
    return float(jnp.sum(jnp.where(weight > 0, values, 0) * weight) / weight.sum())


@functools.cache
def loss(**options):
    student, teacher, of = seen("D2")
    terms = jax.jit(lambda *x: objectives.bind("distill", **options).terms(*x, {}))(student, teacher, of)
    return mean(terms.loss, terms.weight), terms


def test_both_reductions_and_the_kl_of_whole_texts_are_those_of_the_vector():
    expected = VECTORS["D2"]["expected"]
    by_token, terms = loss()
    np.testing.assert_allclose(by_token, expected["token_mean"], rtol=2e-5)
    by_token = np.multiply(expected["per_token_forward_kl"], VECTORS["D2"]["inputs"]["mask"])  # 0 where not scored
    np.testing.assert_allclose(terms.loss[:, 1:], by_token, rtol=2e-5)
    np.testing.assert_allclose(loss(reduction="seq_mean")[0], expected["per_sequence_mean_then_batch_mean"], rtol=2e-5)
    np.testing.assert_allclose(mean(*terms.metrics["kl/sequence"]), expected["sequence_sum_then_batch_mean"], rtol=2e-5)
    np.testing.assert_allclose(mean(*terms.metrics["kl/forward"]), expected["token_mean"], rtol=2e-5)


def test_a_response_without_scored_tokens_is_in_no_mean():
    student, teacher, of = seen("D2")
    of = of.replace(slots=of.slots.at[1].set(-1))
    objective = objectives.bind("distill", reduction="seq_mean")
    terms = jax.jit(lambda *x: objective.terms(*x, {}))(student, teacher, of)
    first = np.compress(VECTORS["D2"]["inputs"]["mask"][0], VECTORS["D2"]["expected"]["per_token_forward_kl"][0])
    np.testing.assert_allclose(mean(terms.loss, terms.weight), first.mean(), rtol=2e-5)


def test_thirds_of_a_response_add_up_to_the_divergence():
    by_token, terms = loss()
    parts = [terms.metrics[f"divergence/{part}"] for part in ("front", "middle", "end")]
    np.testing.assert_array_equal([weight.sum() for _, weight in parts], [2, 2, 1])  # of three and of two tokens
    np.testing.assert_allclose(sum(mean(*part) * part[1].sum() for part in parts) / 5, by_token, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("beta", "limit"), [(1e-3, "forward"), (1 - 1e-3, "reverse")])
def test_a_rescaled_jsd_has_the_limits_of_the_two_kls(beta, limit):
    np.testing.assert_allclose(loss(divergence="jsd", beta=beta, rescale=True)[0], loss(divergence=limit)[0], rtol=5e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reduction": "mean"}, "reduction='mean'; there are token_mean, seq_mean"),
        ({"beta": 0.1}, "beta=0.1, rescale=False with divergence='forward': only 'jsd' reads them"),
        ({"divergence": "kl"}, "divergence 'kl' is none of"),
        ({"divergence": "jsd", "beta": 0.0}, "beta=0.0"),
    ],
)
def test_an_option_out_of_its_range_or_without_effect_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        objectives.bind("distill", **options).terms(*seen("D2"), {})


def test_a_teacher_without_distributions_is_refused_with_the_way_out():
    student, teacher, of = seen("D2")
    with pytest.raises(ValueError, match="rule='teacher', or the objective distill_sampled"):
        objectives.bind("distill").terms(student, Outputs(teacher.logps), of, {})


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_the_expected_gradient_of_samples_is_that_of_the_exact_kl(gamma):
    """All 27 texts of three letters, weighed by their probability.

    With gamma 1 it is the gradient of the KL of whole texts, with gamma 0 that of the KLs of tokens, as if earlier tokens were given.
    """
    texts = np.array(list(itertools.product(range(3), repeat=3)))
    places = np.stack([np.zeros(27, int), 1 + texts[:, 0], 4 + 3 * texts[:, 0] + texts[:, 1]], 1)  # of 13 prefixes
    draw = np.random.default_rng(0)
    student, teacher = (jnp.asarray(draw.normal(size=(13, 3)), jnp.float32) for _ in range(2))
    of = batch(27, 1, lengths=np.full((27, 1), 3), paired=False)

    def logps(logits):
        return jnp.take_along_axis(jax.nn.log_softmax(logits)[places], jnp.asarray(texts)[:, :, None], axis=2)[:, :, 0]

    def sampled(logits):
        weight = jax.lax.stop_gradient(jnp.exp(logps(logits).sum(1)))
        terms = objectives.bind("distill_sampled", gamma=gamma).terms(Outputs(logps(logits)), Outputs(logps(teacher)), of, {})
        return jnp.sum(terms.loss.sum(1) * weight)

    def exact(logits):
        weight = jnp.exp(logps(logits).sum(1))
        gap = logps(logits) - logps(teacher)
        if gamma:
            return jnp.sum(weight * gap.sum(1))
        ls, lt = jax.nn.log_softmax(logits), jax.nn.log_softmax(teacher)
        by_prefix = (jnp.exp(ls) * (ls - lt)).sum(1)
        return jnp.sum(jax.lax.stop_gradient(weight)[:, None] * by_prefix[places])

    (ours, gradient), (theirs, wanted) = jax.jit(lambda x: (jax.value_and_grad(sampled)(x), jax.value_and_grad(exact)(x)))(student)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)
    if gamma == 0:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)

"""Divergences of two models over the chunked head: known values, and dense ones in value and gradient on every mesh."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_distributions import log_softmax, on_mesh
from test_logps import LENGTH, ROWS, VOCAB, case, place

from jaxalign.lm_head import chunks, divergences
from jaxalign.lm_head.divergences import Kind

VECTORS = {case["id"]: case for case in json.loads((Path(__file__).parents[1] / "golden" / "vectors-distill.json").read_text())["cases"]}
NAMES = {"forward": Kind("forward"), "reverse": Kind("reverse"), **{f"jsd_0_{b}": Kind("jsd", b / 10) for b in (1, 5, 9)}}
TEACHER_WIDTH = 8


def tokens_of(logits):
    """(hidden, unembed, scored) in which token 1 + i of the one row has these logits, float[n, V]: the head is the identity."""
    size = logits.shape[1]
    hidden = np.concatenate([logits, np.zeros((1, size))])[None].astype(np.float32)
    return jnp.asarray(hidden), jnp.eye(size, dtype=jnp.float32), jnp.arange(len(logits) + 1)[None] > 0


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_of_one_position_are_those_of_the_vector(name):
    inputs, expected = VECTORS["D1"]["inputs"], VECTORS["D1"]["expected"]
    teacher, student = (np.array([inputs[f"{side}_logits"]]) for side in ("teacher", "student"))
    key = name if name.startswith("jsd") else f"{name}_kl"
    with on_mesh((1, 1, 1)):
        (t, head, scored), (s, _, _) = tokens_of(teacher), tokens_of(student)

        def run(s):
            value, measures = divergences.measured_divergence((s, head), (t, head), scored, NAMES[name], vocab_size=3)
            return value.sum(), measures

        (value, measures), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(s)
    np.testing.assert_allclose(value, expected[key], rtol=2e-5)
    np.testing.assert_allclose(gradient[0, 0], expected[f"grad_{key}"], rtol=2e-5, atol=2e-6)
    for other in ("forward", "reverse"):
        np.testing.assert_allclose(getattr(measures, other)[0, 1], expected[f"{other}_kl"], rtol=2e-5)
    for side in ("teacher", "student"):
        p = np.array(expected[f"{side}_probs"])
        np.testing.assert_allclose(getattr(measures, f"{side}_entropy")[0, 1], -(p * np.log(p)).sum(), rtol=2e-5)


def dense(student, teacher, kind):
    """The divergence of log-probs [..., V], and those of `Measures`."""
    ls, lt = student / kind.temperature, teacher / kind.temperature
    if kind.top_k:
        kept = lt >= jnp.sort(lt, axis=-1)[..., -kind.top_k, None]
        ls, lt = (jnp.where(kept, x, -1e9) for x in (ls, lt))
    ls, lt = jax.nn.log_softmax(ls), jax.nn.log_softmax(lt)
    p, q = jnp.exp(lt), jnp.exp(ls)
    forward, reverse = (p * (lt - ls)).sum(-1), (q * (ls - lt)).sum(-1)
    mixture = jnp.log(kind.beta * p + (1 - kind.beta) * q + 1e-30)
    jsd = kind.beta * (p * (lt - mixture)).sum(-1) + (1 - kind.beta) * (q * (ls - mixture)).sum(-1)
    return {"forward": forward, "reverse": reverse, "jsd": jsd}[kind.name], (forward, reverse, -(p * lt).sum(-1), -(q * ls).sum(-1))


CASES = {
    "forward": (Kind("forward"), 61, (None, 3.0), 7),
    "soft jsd": (Kind("jsd", 0.3, temperature=2.0), 64, (None, None), 8),
    "cut reverse": (Kind("reverse", top_k=5), 61, (3.0, None), 1024),
    "cut jsd": (Kind("jsd", 0.9, top_k=20), 61, (None, None), 7),
}
QUICK = [("forward", (1, 1, 1)), ("cut jsd", (2, 2, 2))]
MESHES = ((1, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2))
# Every kind on a mesh of all axes, and one of them on the others too; SWEEP=1 tries all on all.
PLACED = [(name, mesh) for name in CASES for mesh in MESHES if mesh == MESHES[-1] or name == "forward" or os.environ.get("SWEEP")]


@pytest.mark.parametrize(
    ("name", "shape"), [pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.slow) for pair in PLACED], ids=str
)
def test_chunked_equals_dense_for_a_teacher_of_another_width(monkeypatch, name, shape):
    kind, vocab_size, softcaps, chunk = CASES[name]
    monkeypatch.setattr(chunks, "REST_TOKENS", 5)
    (hidden, unembed, _, scored), cotangent = case(vocab_size)
    keys = jax.random.split(jax.random.key(7))
    teacher = jax.random.normal(keys[0], (ROWS, LENGTH, TEACHER_WIDTH)), jax.random.normal(keys[1], (VOCAB, TEACHER_WIDTH))

    def plain(hidden, unembed):
        sides = (log_softmax(*side, vocab_size, cap) for side, cap in zip(((hidden, unembed), teacher), softcaps, strict=True))
        value, measures = dense(*sides, kind)
        value, *measures = (jnp.where(scored, x, 0.0) for x in (value, *measures))
        return jnp.sum(value * cotangent), (value, measures)

    expected_gradients, (expected, expected_measures) = jax.grad(plain, argnums=(0, 1), has_aux=True)(hidden, unembed)
    with on_mesh(shape):
        *student, mask, weights = place(hidden, unembed, scored, cotangent)
        other, options = place(*teacher), {"vocab_size": vocab_size, "softcaps": softcaps, "chunk_tokens": chunk}

        @jax.jit
        def run(student, teacher):
            def total(student, teacher):
                value, measures = divergences.measured_divergence(student, teacher, mask, kind, **options)
                return jnp.sum(value * weights), (value, measures, divergences.token_divergence(student, teacher, mask, kind, **options))

            return jax.grad(total, argnums=(0, 1), has_aux=True)(student, teacher)

        (gradients, constant), (value, measures, alone) = run(student, other)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(alone, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(measures, expected_measures, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5 * float(jnp.abs(theirs).max()))
    assert not any(x.any() for x in constant)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Kind("kl"), "divergence 'kl' is none of forward, reverse, jsd"),
        (Kind("jsd", 1.0), r"beta=1.0 .* not in \(0, 1\).*'reverse'"),
        (Kind("forward", temperature=0.0), "loss_temperature=0.0 .* above 0"),
        (Kind("forward", top_k=1), "top_k=1 leaves nothing to compare"),
    ],
)
def test_a_value_out_of_its_range_is_refused(kind, words):
    with pytest.raises(ValueError, match=words):
        kind.check()


@pytest.mark.parametrize("least", [1.75, -1.75])
def test_the_last_token_that_top_k_keeps_stays_when_a_pass_rounds_it_down(least):
    choice = divergences._Choice(Kind("forward", top_k=2), chunks.Options(4, None, 8), chunks.Options(4, None, 8), False)
    below = np.nextafter(np.float32(least), np.float32(-9))
    logits = jnp.array([[3.0, below, least - 1e-4, 5.0, 9.0]])  # the last is padding
    inside = divergences._inside(logits, jnp.arange(5), jnp.array([least]), choice)
    np.testing.assert_array_equal(inside[0], [True, True, False, True, False])
    none = divergences._inside(logits, jnp.arange(5), jnp.array([-jnp.inf]), choice)  # while the k-th is looked for
    np.testing.assert_array_equal(none[0], [True, True, True, True, False])

"""The law of a token, its options, and draws from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.sampling import law as laws
from jaxalign.sampling.law import BLOCK, Law, draw, log_probs

LOGITS = np.float32(3 * np.random.default_rng(0).standard_normal((5, 2 * BLOCK)))
LOGITS[:, 250:] = -np.inf  # padding of the vocabulary


def made(law, logits=LOGITS):
    return np.asarray(jax.jit(log_probs, static_argnums=1)(logits, law))


@pytest.mark.parametrize("law", [Law(), Law(0.5), Law(top_k=7), Law(top_p=0.9), Law(min_p=0.1), Law(0.8, 20, 0.7, 0.05)], ids=str)
def test_the_law_is_normalised_and_keeps_the_order_of_what_it_keeps(law):
    values = made(law)
    np.testing.assert_allclose(np.exp(values).sum(1), 1, rtol=1e-5)
    for row, logits in zip(values, LOGITS, strict=True):
        kept = np.isfinite(row)
        assert logits[kept].min() > logits[~kept].max()
        differences = row[kept] - logits[kept] / law.temperature
        np.testing.assert_allclose(differences, differences[0], atol=1e-5)


def test_the_law_of_a_section_has_the_options_that_it_gives():
    assert laws.of({"temperature": 0.5, "top_k": None, "top_p": 0.9, "samples": 4}) == Law(0.5, top_p=0.9)


def test_each_filter_keeps_what_its_name_says():
    assert (np.isfinite(made(Law(top_k=7))).sum(1) == 7).all()
    probabilities = np.exp(made(Law()))
    for row, kept in zip(probabilities, np.isfinite(made(Law(top_p=0.9))), strict=True):
        assert row[kept].sum() >= 0.9 > row[kept].sum() - row[kept].min()
    np.testing.assert_array_equal(np.isfinite(made(Law(min_p=0.1))), probabilities >= 0.1 * probabilities.max(1, keepdims=True))


def test_equal_tokens_are_kept_or_left_out_together():
    logits = np.full((1, BLOCK), -5.0, np.float32)
    logits[0, :4] = 2.0
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(made(Law(top_k=2), logits)[0])), range(4))


def test_more_tokens_than_the_vocabulary_are_all():
    np.testing.assert_array_equal(made(Law(top_k=1000)), made(Law()))


def test_the_likeliest_token_alone_at_temperature_0():
    np.testing.assert_array_equal(made(Law(0.0)), np.where(np.arange(2 * BLOCK) == LOGITS.argmax(1)[:, None], 0, -np.inf))


def test_a_draw_is_where_the_cumulative_probability_exceeds_the_number():
    values = made(Law())[:1]
    numbers = np.float32(np.random.default_rng(1).random(1000))
    tokens = np.asarray(draw(jnp.repeat(values, 1000, 0), numbers))
    ends = np.exp(values[0].astype(np.float64)).cumsum()
    assert ((ends[tokens] > numbers - 1e-6) & (ends[tokens] - np.exp(values[0, tokens]) <= numbers + 1e-6)).all()


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2.0**-24])
def test_a_token_of_probability_0_is_never_drawn(number):
    values = np.full((1, 3 * BLOCK), -np.inf, np.float32)
    values[0, 200] = np.log(np.float32(1 / 3))
    values[0, 133] = np.log(np.float32(2 / 3))
    assert int(draw(values, np.float32([number]))[0]) in (133, 200)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"min_p": 2.0}, "min_p=2.0"),
        ({"temperature": 0.0, "top_k": 3}, "no effect at temperature 0"),
    ],
)
def test_a_wrong_option_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Law(**options)

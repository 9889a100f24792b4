"""The law that a token is drawn from: the model's distribution after temperature, top-k, top-p and min-p, and a draw from it.

The rules apply in this order, as in `transformers`; a token as likely as the last one that is kept is kept too, so that no rule depends
on the order of the vocabulary.
"""

from collections.abc import Mapping
import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

BLOCK = 128  # tokens of the vocabulary that are summed together; every padded vocabulary is a multiple of it


@dataclasses.dataclass(frozen=True)
class Law:
    """How tokens are drawn.

    Raises:
      ValueError: an option out of its range, or one without effect.
    """

    temperature: float = 1.0  # logits are divided by it; 0: the likeliest token
    top_k: int = 0  # only the k likeliest tokens; 0: all
    top_p: float = 1.0  # only the likeliest tokens that together have this probability
    min_p: float = 0.0  # only tokens that have this share of the likeliest one's probability

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature} must be finite and at least 0; 0 takes the likeliest token.")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} is a number of tokens; use 0 for all of them.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} is a probability; choose it above 0 and up to 1, which keeps all tokens.")
        if not 0 <= self.min_p <= 1:
            raise ValueError(
                f"min_p={self.min_p} is a share of the largest probability; choose it in [0, 1]; 0 keeps all tokens."
            )
        if self.temperature == 0 and (self.top_k, self.top_p, self.min_p) != (0, 1.0, 0.0):
            raise ValueError("top_k, top_p and min_p have no effect at temperature 0, which takes the likeliest token; leave them out.")


def of(spec: Mapping[str, Any]) -> Law:
    """The law of those of its options that a section of the configuration has; None is no option.

    Raises:
      ValueError: as `Law`.
    """
    return Law(**{field.name: spec[field.name] for field in dataclasses.fields(Law) if spec.get(field.name) is not None})


def log_probs(logits: Array, law: Law) -> Array:
    """Log-probs of the law, float32[C, V]; -inf for tokens that cannot be drawn. They sum to one over the tokens that are kept.

    logits are float32[C, V], -inf for tokens that are forbidden.
    """
    if law.temperature == 0:
        return jnp.where(jnp.arange(logits.shape[1]) == logits.argmax(1)[:, None], 0.0, -jnp.inf)
    values = jax.nn.log_softmax(logits / law.temperature)
    if law.top_k and law.top_k < logits.shape[1]:
        values = _keep(values, jnp.ones_like(values), float(law.top_k))
    if law.top_p < 1:
        values = _keep(values, jnp.exp(values), law.top_p)
    if law.min_p > 0:
        values = _normalized(values, values >= values.max(1, keepdims=True) + jnp.log(law.min_p))
    return values


def draw(values: Array, uniform: Array) -> Array:
    """A token for each row of log-probs [C, V], from a uniform number in [0, 1): int32[C].

    The token is where the cumulative probability, in the order of the vocabulary, first exceeds the uniform number. Probabilities are
    summed by blocks, so that rounding does not grow with the vocabulary. A token of probability 0 is never drawn.
    """
    blocks = jnp.exp(values).reshape(len(values), -1, BLOCK)
    place, before = _first_above(jnp.cumsum(blocks.sum(2), axis=1), uniform)
    inside = jnp.cumsum(jnp.take_along_axis(blocks, place[:, None, None], axis=1)[:, 0], axis=1)
    total = jnp.take_along_axis(blocks.sum(2), place[:, None], axis=1)[:, 0]
    share = jnp.clip(before / total, 0.0, 1.0)
    return place * BLOCK + _first_above(inside, share)[0]


def _first_above(ends: Array, share: Array) -> tuple[Array, Array]:
    """(the first place whose cumulative sum is above this share of the whole, by how much the share is beyond the place before it)."""
    wanted = jnp.minimum(share * ends[:, -1], jnp.nextafter(ends[:, -1], 0.0))
    place = (ends <= wanted[:, None]).sum(1)
    start = jnp.where(place > 0, jnp.take_along_axis(ends, jnp.maximum(place - 1, 0)[:, None], axis=1)[:, 0], 0.0)
    return place, wanted - start


def _keep(values: Array, amounts: Array, wanted: float) -> Array:
    """The log-probs of the likeliest tokens whose amounts together reach `wanted`, normalised; -inf for the others.

    The least probability that is kept is found by bisection over the bits of a float32, which is faster than sorting a vocabulary: the
    bits of numbers that are not negative are ordered like the numbers.
    """
    probabilities = jnp.exp(values)

    def halve(_, bounds):
        low, high = bounds  # enough is kept at low, too little at high
        middle = low + (high - low) // 2
        enough = jnp.where(probabilities >= _number(middle), amounts, 0.0).sum(1, keepdims=True) >= wanted
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    start = jnp.zeros((len(values), 1), jnp.int32), jnp.full((len(values), 1), _above_one())
    low, _ = jax.lax.fori_loop(0, 31, halve, start)
    return _normalized(values, probabilities >= _number(low))


_number = partial(jax.lax.bitcast_convert_type, new_dtype=jnp.float32)


def _above_one() -> Array:
    return jax.lax.bitcast_convert_type(jnp.float32(2.0), jnp.int32)


def _normalized(values: Array, kept: Array) -> Array:
    return jax.nn.log_softmax(jnp.where(kept, values, -jnp.inf))

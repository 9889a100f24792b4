"""Divergences between the next-token distributions of two models at every scored token, without `[R, T, V]` of either.

Forward KL, reverse KL and the generalised Jensen-Shannon divergence of distillation (GKD, arXiv 2306.13649, equation 1), with a softening
temperature and a teacher cut to its likeliest tokens. The operator is chunked and split over the vocabulary like `logps`, see `chunks`;
the logits of both models are computed again in the backward pass.
"""

from functools import partial
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign.lm_head import chunks as heads
from jaxalign.lm_head.chunks import CHUNK_TOKENS, Options
from jaxalign.sharding import spec

KINDS = ("forward", "reverse", "jsd")
# Logits are computed in several passes, which a compiler may round differently: top_k keeps what is so little below the k-th, as a share
# of it, so that the k-th itself is in no pass left out.
ROUNDING = 8 * float(jnp.finfo(jnp.float32).eps)


class Kind(NamedTuple):
    """Which divergence, of which distributions; p is the teacher's and q the student's, both after temperature and top_k."""

    name: str  # "forward": KL(p || q); "reverse": KL(q || p); "jsd": beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q
    beta: float = 0.5  # weight of the teacher in "jsd"
    temperature: float = 1.0  # logits of both are divided by it
    top_k: int = 0  # p and q are cut to the teacher's k likeliest tokens and normalised there; equals of the last are kept; 0: all tokens

    def check(self) -> None:
        """Raises ValueError where a value is out of its range."""
        if self.name not in KINDS:
            raise ValueError(f"divergence {self.name!r} is none of {', '.join(KINDS)}.")
        if self.name == "jsd" and not 0 < self.beta < 1:
            raise ValueError(
                f"beta={self.beta} of the Jensen-Shannon divergence is not in (0, 1); its limits are 'forward' (beta to 0) and 'reverse' "
                "(beta to 1), up to a scale that vanishes."
            )
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"loss_temperature={self.temperature} divides the logits; choose it above 0, 1 leaves them.")
        if self.top_k < 0 or self.top_k == 1:
            raise ValueError(f"top_k={self.top_k} leaves nothing to compare; choose at least 2 tokens, or 0 for all of them.")


class Measures(NamedTuple):
    """What else is known of the distributions that are compared, in nats: float32[R, T] each, 0 where not scored, without a gradient."""

    forward: jax.Array  # KL(teacher || student)
    reverse: jax.Array  # KL(student || teacher)
    teacher_entropy: jax.Array
    student_entropy: jax.Array


def token_divergence(
    student,
    teacher,
    scored,
    kind: Kind,
    *,
    vocab_size: int,
    softcaps: tuple[float | None, float | None] = (None, None),
    chunk_tokens: int = CHUNK_TOKENS,
):
    """The divergence at every scored token, exact over the vocabulary, on the text given: float32[R, T], 0 where not scored.

    Differentiable in the student; the teacher is a constant. A mesh must be in scope.

    Args:
      student, teacher: (hidden [R, T, D] after the final norm, unembed float32[V, D]) of each; the widths may differ.
      scored: bool[R, T]; False at t = 0 and wherever the token before belongs to another sequence. hidden[r, t - 1] predicts token t.
      kind: of the divergence.
      vocab_size: number of tokens of both; further rows of unembed are padding.
      softcaps: of the logits of student and teacher, None for plain ones.
      chunk_tokens: the most tokens that go through the heads at a time; on CPU fewer, see `chunks.chunk_tokens`.

    Raises:
      ValueError: a value of `kind` is out of its range.
    """
    return _checked(student, teacher, scored, kind, vocab_size, softcaps, chunk_tokens, measured=False)[0]


def measured_divergence(student, teacher, scored, kind: Kind, *, vocab_size: int, softcaps=(None, None), chunk_tokens: int = CHUNK_TOKENS):
    """(`token_divergence`, `Measures` of the same distributions), in one pass."""
    value, *measures = _checked(student, teacher, scored, kind, vocab_size, softcaps, chunk_tokens, measured=True)
    return value, Measures(*map(jax.lax.stop_gradient, measures))


class _Choice(NamedTuple):
    """What is known when the operator is traced."""

    kind: Kind
    student: Options
    teacher: Options
    measured: bool


def _checked(student, teacher, scored, kind, vocab_size, softcaps, chunk_tokens, *, measured):
    kind.check()
    choice = _Choice(kind, *(Options(vocab_size, softcap, chunk_tokens) for softcap in softcaps), measured)
    values = _operator(tuple(student), jax.lax.stop_gradient(tuple(teacher)), heads.by_state(scored), choice)
    return [heads.by_token(x) for x in values]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _operator(student, teacher, scored, choice):
    return _forward(student, teacher, scored, choice)[0]


def _specs():
    return (spec("rows", "tokens", None), spec("vocab", "embed")), spec("rows", "tokens")


def _forward(student, teacher, scored, choice):
    side, r = _specs()
    out = [r] * (5 if choice.measured else 1), [r] * 4
    local = jax.shard_map(partial(_forward_local, choice=choice), in_specs=(side, side, r), out_specs=out, check_vma=False)
    values, saved = local(student, teacher, scored)
    return values, (student, teacher, scored, *saved)


def _backward(choice, saved, gradients):
    side, r = _specs()
    local = partial(_backward_local, choice=choice)
    local = jax.shard_map(local, in_specs=(side, side, *[r] * 6), out_specs=side, check_vma=False)
    hidden_gradient, unembed_gradient = local(*saved, gradients[0])
    return (hidden_gradient, unembed_gradient.astype(saved[0][1].dtype)), None, None


_operator.defvjp(_forward, _backward)


# What follows runs inside shard_map: R and T are this device's rows and tokens, V its slice of the vocabulary.


def _forward_local(student, teacher, scored, *, choice):
    pair = _pairs(student, teacher, choice)
    least = _least_kept(pair, scored, choice, vocabulary=teacher[1].shape[0])
    split = jax.lax.axis_size("tensor") > 1  # then the slices of the vocabulary must meet before a mixture can be made
    zeros = jnp.zeros(scored.size, jnp.float32)

    def normalizers(index, carry):
        s, t, _ = pair(index, least)
        return tuple(_put(x, index, jax.nn.logsumexp(value, axis=1)) for x, value in zip(carry, (s, t), strict=True))

    totals = zeros, zeros
    if split:
        totals = tuple(heads.sum_over_shards(x) for x in heads.over_chunks(scored, choice.student, normalizers, totals))

    def body(index, carry):
        s, t, inside = pair(index, least)
        ends = [heads.at(x, index) for x in totals] if split else [jax.nn.logsumexp(x, axis=1) for x in (s, t)]
        values = (*_sums(s - ends[0][:, None], t - ends[1][:, None], inside, choice), *ends)
        return tuple(_put(x, index, value) for x, value in zip(carry, values, strict=True))

    count = 6 if choice.measured else 2
    *sums, total_s, total_t = heads.over_chunks(scored, choice.student, body, (zeros,) * (count + 2))
    value, inner, *measures = (jnp.where(scored, jax.lax.psum(x, "tensor").reshape(scored.shape), 0.0) for x in sums)
    return [value, *measures], [x.reshape(scored.shape) for x in (inner, total_s, total_t, least)]


def _put(array, index, value):
    return array.at[index].set(value, mode="drop")


def _pairs(student, teacher, choice):
    """(index, least) -> (student's logits, teacher's logits, whether a token is compared): [chunk, V] each, -inf where it is not."""
    models = [(hidden, heads.gather_head(unembed, hidden.dtype)) for hidden, unembed in (student, teacher)]

    def pair(index, least):
        (s, columns), (t, _) = (
            heads.logits(heads.states(hidden, index), head, options)
            for (hidden, head), options in zip(models, (choice.student, choice.teacher), strict=True)
        )
        inside = _inside(t, columns, heads.at(least, index), choice)
        return *(jnp.where(inside, x / choice.kind.temperature, -jnp.inf) for x in (s, t)), inside

    return pair


def _inside(teacher_logits, columns, least, choice):
    inside = columns < choice.student.vocab_size
    if not choice.kind.top_k:
        return inside[None]
    return inside & (teacher_logits / choice.kind.temperature >= (least - ROUNDING * jnp.abs(least))[:, None])


def _least_kept(pair, scored, choice, *, vocabulary):
    """The least of the teacher's logits that are compared, float32[R * T]; -inf where all are."""
    least, top_k = jnp.full(scored.size, -jnp.inf, jnp.float32), choice.kind.top_k
    if not top_k:
        return least
    here = min(top_k, vocabulary)

    def body(index, carry):
        return _put(carry, index, jax.lax.top_k(pair(index, least)[1], here)[0])

    best = heads.over_chunks(scored, choice.student, body, jnp.zeros((scored.size, here), jnp.float32))
    best = jax.lax.all_gather(best, "tensor", axis=1, tiled=True)
    return jax.lax.top_k(best, min(top_k, best.shape[1]))[0][:, -1]


def _sums(ls, lt, inside, choice):
    """(the divergence, its inner KL of the student, and where measured the four of Measures), of log-probs [chunk, V]: float32[chunk]."""

    def expected(log_weight, x):
        return jnp.sum(jnp.where(inside, jnp.exp(log_weight) * x, 0.0), axis=1)

    kind, forward, reverse = choice.kind, expected(lt, lt - ls), expected(ls, ls - lt)
    if kind.name == "jsd":
        mixture = _log_mixture(ls, lt, kind)
        inner = expected(ls, ls - mixture)
        value = kind.beta * expected(lt, lt - mixture) + (1 - kind.beta) * inner
    else:
        value, inner = (forward, jnp.zeros_like(forward)) if kind.name == "forward" else (reverse, reverse)
    return (value, inner, forward, reverse, -expected(lt, lt), -expected(ls, ls)) if choice.measured else (value, inner)


def _log_mixture(ls, lt, kind):
    return jnp.logaddexp(lt + math.log(kind.beta), ls + math.log1p(-kind.beta))


def _backward_local(student, teacher, scored, inner, total_s, total_t, least, gradient, *, choice):
    hidden_t, head_t = teacher[0], heads.gather_head(teacher[1], teacher[0].dtype)
    kind = choice.kind

    def logit_gradient(index, logits, columns):
        t, _ = heads.logits(heads.states(hidden_t, index), head_t, choice.teacher)
        inside = _inside(t, columns, heads.at(least, index), choice)
        ls, lt = (
            jnp.where(inside, x / kind.temperature - heads.at(total, index)[:, None], -jnp.inf)
            for x, total in ((logits, total_s), (t, total_t))
        )
        # d/dz: forward q - p; reverse q (log q - log p - KL(q || p)); jsd (1 - beta) q (log q - log m - KL(q || m))
        if kind.name == "forward":
            d = jnp.exp(ls) - jnp.exp(lt)
        elif kind.name == "reverse":
            d = jnp.exp(ls) * (ls - lt - heads.at(inner, index)[:, None])
        else:
            d = (1 - kind.beta) * jnp.exp(ls) * (ls - _log_mixture(ls, lt, kind) - heads.at(inner, index)[:, None])
        return (heads.at(gradient, index) / kind.temperature)[:, None] * jnp.where(inside, d, 0.0)

    return heads.backward(*student, scored, choice.student, logit_gradient)

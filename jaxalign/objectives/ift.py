"""Intuitive Fine-Tuning (arXiv 2405.11870, equations 17 to 21, algorithm 1; and its published code, from which the paper differs)."""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families.discounts import future_sums
from jaxalign.types import Batch, Outputs, Terms, at_tokens, max_responses, response_lengths, sum_responses

REQUIRES = ("unpaired",)
FORWARD = "two_pass"
MODES = ("official", "stopgrad_weights", "alg1", "eq21")
# Weights from the discounted losses x of a response, up to a factor, and from the largest of them, without which exp(x) overflows.
NORMS = {"l1": lambda x, _: x, "l2": lambda x, _: x**2, "log": lambda x, _: jnp.log1p(x), "softmax": lambda x, top: jnp.exp(x - top)}
TINY = 1e-8  # keeps 0 / 0 away where every token has loss 0


def ift(
    policy: Outputs, reference: Outputs | None, batch: Batch, *, gamma: float = 0.95, mode: str = "official", norm: str = "l1"
) -> Terms:
    """Every response's mean negative log-likelihood, a token weighed by the discounted loss from it to the end of the response.

    With gamma 0 the plain mean over the tokens of each response, then over responses. Code and paper have three different losses:
    "official" is the code's, whose gradient flows through the weights too and so *raises* the loss of tokens below about half the mean
    (metric weights/negative_gradient); "stopgrad_weights" is that with constant weights; "alg1" and "eq21" are the paper's algorithm 1
    (not normalised) and equation 21 (linear, weights that *grow* along the response).

    Args:
      policy: log-probs of the gold tokens in the second pass; its greedy tokens, where there are any, are only reported.
      batch: any batch; every valid response is trained on. The reference is not read.
      gamma, mode: discount per position, 0 <= gamma <= 1, in the paper 0.95; one of MODES.
      norm: one of NORMS, what the code makes of a token's discounted loss (over the response's length) to weigh by: itself, its square,
        log(1 + it), exp(it). The paper's runs: "l1". Not for "alg1" and "eq21", which do not normalise.

    Raises:
      ValueError: gamma out of range, an unknown mode or norm, or a norm that has no effect.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"objective 'ift' got gamma={gamma}; it is the discount a position, 0 <= gamma <= 1, in the paper 0.95.")
    if mode not in MODES:
        raise ValueError(f"objective 'ift' got mode={mode!r}; choose one of {', '.join(MODES)}.")
    if norm not in (choices := NORMS if mode in MODES[:2] else ("l1",)):
        raise ValueError(f"objective 'ift' got norm={norm!r}; with mode={mode!r} choose one of {', '.join(choices)}.")
    nll = jnp.where(batch.slots >= 0, -policy.logps, 0.0)
    lengths = response_lengths(batch)
    loss, weights = _losses(nll, batch, gamma, mode, norm)
    slope = jax.grad(lambda x: _losses(x, batch, gamma, mode, norm)[0].sum())(jax.lax.stop_gradient(nll))
    weights = jax.lax.stop_gradient(slope if mode == "eq21" else weights)
    share = weights / at_tokens(jnp.maximum(sum_responses(weights, batch), TINY), batch).clip(TINY)
    trained = (batch.valid & (lengths > 0)).astype(jnp.float32)
    tokens = at_tokens(trained, batch)
    metrics = {
        "loss/further": (sum_responses(nll, batch) / jnp.maximum(lengths, 1), trained),
        "weights/negative_gradient": ((slope < 0).astype(jnp.float32), tokens),
        "weights/largest": (max_responses(share, batch), trained),
        "weights/entropy": (sum_responses(-share * jnp.log(share.clip(TINY)), batch), trained),
        "logps/responses": (sum_responses(policy.logps, batch), trained),
        "lengths/responses": (lengths, trained),
    }
    if policy.greedy is not None:
        metrics["greedy/disagreement"] = ((policy.greedy != batch.tokens).astype(jnp.float32), tokens)
    return Terms(loss, trained, metrics)


def _losses(nll, batch, gamma, mode, norm):
    """(losses [N, K], weights [R, T] of the tokens up to a factor a response)."""
    scored = batch.slots >= 0
    future = jnp.where(scored, future_sums(nll, batch.segments, gamma), 0.0)
    if mode == "eq21":
        # L = sum_t C_t with C_t = sum_{k >= t} gamma^(k - t) l_k
        return sum_responses(future, batch), future
    if mode == "alg1":
        # L = sum_t C_t l_t
        return sum_responses(future * nll, batch), future
    mean = future / at_tokens(jnp.maximum(response_lengths(batch), 1), batch).clip(1)
    top = at_tokens(max_responses(jax.lax.stop_gradient(mean), batch), batch)
    weights = jnp.where(scored, 1.0 if gamma == 0 else NORMS[norm](mean, top), 0.0)
    if mode == "stopgrad_weights":
        weights = jax.lax.stop_gradient(weights)
    # L = sum_t f(C_t / n) l_t / sum_t f(C_t / n)
    return sum_responses(weights * nll, batch) / (sum_responses(weights, batch) + TINY), weights

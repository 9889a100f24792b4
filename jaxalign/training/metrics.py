"""Metrics that do not depend on the objective, so that methods can be compared on the same rows."""

import jax
import jax.numpy as jnp

from jaxalign.lm_head.divergences import Kind, token_divergence
from jaxalign.objectives.families.distillation import shared_vocabulary
from jaxalign.objectives.families.pairs import ranked_right
from jaxalign.types import Array, Batch, Outputs, response_lengths, sum_responses


def rankings(policy: Outputs, reference: Outputs | None, batch: Batch) -> dict[str, tuple[Array, Array]]:
    """Does the policy rank the responses of a prompt as their rewards do? name -> (values, weights), both float32[N, K, K].

    One value for every two valid responses of a prompt with different rewards: 1 where the one with the higher reward is above the other, 0
    where it is below, 1/2 where they are equal, as all log-ratios are before the first step. "accuracy", the headline, compares
    log pi - log pi_ref of whole responses, the implicit reward, or log pi where there is no reference; "ranking/logps" compares the mean
    log-prob per token, and "ranking/length" the lengths: the score of a judge that prefers the longer response. A model with a reward head
    is judged by its rewards. Empty where prompts have one response. No gradient goes through them.
    """
    if batch.valid.shape[1] < 2:
        return {}
    lengths = response_lengths(batch)
    if policy.rewards is not None:
        by = {"accuracy": jax.lax.stop_gradient(policy.rewards)}
    else:
        logps = sum_responses(jax.lax.stop_gradient(policy.logps), batch)
        constant = jnp.zeros_like(logps) if reference is None else sum_responses(jax.lax.stop_gradient(reference.logps), batch)
        by = {"accuracy": logps - constant, "ranking/logps": logps / jnp.maximum(lengths, 1.0)}
    by["ranking/length"] = lengths
    better = batch.valid[:, :, None] & batch.valid[:, None] & (batch.reward[:, :, None] > batch.reward[:, None])
    return {name: (ranked_right(x[:, :, None] - x[:, None]), better.astype(jnp.float32)) for name, x in by.items()}


def kl(policy: Outputs, reference: Outputs, batch: Batch) -> Array:
    """KL(policy || reference) of the next-token distributions at every scored token, in nats: float32[R, T], 0 where not scored."""
    sides = (policy.hidden, policy.unembed), (reference.hidden, reference.unembed)
    options = {"vocab_size": shared_vocabulary(policy, reference), "softcaps": (policy.softcap, reference.softcap)}
    return token_divergence(*sides, batch.slots >= 0, Kind("reverse"), **options)

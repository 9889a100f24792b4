"""Metrics that do not depend on the objective, so that methods can be compared on the same held-out rows."""

import jax.numpy as jnp

from jaxalign.types import Array, Batch, Outputs, response_lengths, sum_responses


def rankings(policy: Outputs, reference: Outputs | None, batch: Batch) -> dict[str, tuple[Array, Array]]:
    """Does the policy rank the responses of a prompt as their rewards do? name -> (values, weights), both float32[N, K, K].

    One value for every two valid responses of a prompt with different rewards: 1 where the one with the higher reward is above the other, 0
    where it is below, 1/2 where they are equal, as all log-ratios are before the first step. "ranking/log_ratios": by log pi - log pi_ref
    of the whole response, the implicit reward; only with a reference. "ranking/logps": by the mean log-prob a token.
    """
    logps = sum_responses(policy.logps, batch)
    better = batch.valid[:, :, None] & batch.valid[:, None] & (batch.reward[:, :, None] > batch.reward[:, None])
    by = {"ranking/logps": logps / jnp.maximum(response_lengths(batch), 1.0)}
    if reference is not None:
        by["ranking/log_ratios"] = logps - sum_responses(reference.logps, batch)
    above = {name: (1 + jnp.sign(x[:, :, None] - x[:, None])) / 2 for name, x in by.items()}
    return {name: (values.astype(jnp.float32), better.astype(jnp.float32)) for name, values in above.items()}

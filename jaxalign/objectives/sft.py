"""Supervised fine-tuning: the negative log-likelihood of the scored tokens."""

import jax.numpy as jnp

from jaxalign.types import Batch, Outputs, Terms, at_tokens, response_lengths, sum_responses

REQUIRES = ("unpaired",)


def sft(policy: Outputs, reference: Outputs | None, batch: Batch) -> Terms:
    """-log p of every scored token; the mean is over tokens, so a long response weighs more than a short one.

    Args:
      policy: log-probs of the batch.
      reference: not read.
      batch: any batch; every valid response is trained on.
    """
    weight = at_tokens(batch.valid.astype(jnp.float32), batch)
    valid = batch.valid.astype(jnp.float32)
    metrics = {"logps/responses": (sum_responses(policy.logps, batch), valid), "lengths/responses": (response_lengths(batch), valid)}
    return Terms(-policy.logps, weight, metrics)

"""Batches that hold given log-probs, and an objective's loss and gradients on them, statistics included."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import objectives
from jaxalign.types import Batch, Outputs

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
VECTORS = {
    vector["name"]: (vector["inputs"], vector["expected"])
    for vector in json.loads((GOLDEN / "vectors-una-dpo-kto.json").read_text())["vectors"]
}
TRUST_REGION = json.loads((GOLDEN / "vectors-tr-ift.json").read_text())["T3_losses"]


def batch(count, responses=2, *, lengths=None, reward=None, paired=True, valid=None, mismatched=None):
    """A row for each of `count` groups of some responses; response k has lengths[n, k] tokens, by default one."""
    lengths = np.ones((count, responses), int) if lengths is None else np.asarray(lengths)
    widest = max(1, lengths.max())
    slots = np.where(np.arange(widest) < lengths[:, :, None], np.arange(responses)[:, None], -1).reshape(count, -1).astype(np.int32)
    zeros = jnp.zeros_like(slots)
    return Batch(
        zeros, zeros, zeros + 1, zeros, jnp.asarray(slots),
        reward=jnp.zeros((count, responses)) if reward is None else jnp.asarray(reward, jnp.float32),
        paired=jnp.broadcast_to(jnp.asarray(paired), count),
        valid=jnp.ones((count, responses), bool) if valid is None else jnp.asarray(valid, bool),
        columns={} if mismatched is None else {"mismatched": jnp.asarray(mismatched, jnp.float32)},
    )  # fmt: skip


def outputs(values, batch, **rest):
    """Outputs in which the log-probs of response k of group n sum to values[n, k]: all on its first token."""
    values = jnp.asarray(values, jnp.float32)
    count, responses = values.shape
    wide = jnp.zeros((count, responses, batch.slots.shape[1] // responses)).at[:, :, 0].set(values)
    return Outputs(wide.reshape(count, -1), **rest)


def means(pairs):
    """The means that the step makes of an objective's statistics."""
    total = {name: (np.sum(np.where(w > 0, v, 0) * w), np.sum(w)) for name, (v, w) in jax.device_get(pairs).items()}
    return {name: jnp.float32(value / weight if weight else 0.0) for name, (value, weight) in total.items()}


def evaluate(name, policy, reference, of, *, previous=None, prompt_values=None, **hparams):
    """(terms, mean loss, gradient to the policy's summed log-probs, to the reference's, statistics) of the objective in this file.

    `policy`, `reference` are summed log-probs [N, K], `of` the batch; `previous` the statistics of the step before.
    """
    bound = objectives.bind(name, **hparams)
    policy, reference = jnp.asarray(policy, jnp.float32), jnp.asarray(reference, jnp.float32)
    rest = {} if prompt_values is None else {"prompt_values": jnp.asarray(prompt_values, jnp.float32)}
    current = means(bound.statistics(outputs(policy, of, **rest), outputs(reference, of), of))
    previous = {key: jnp.float32(0) for key in current} if previous is None else previous
    known = bound.carry(previous, current, jnp.int32(0))

    def mean(policy, reference):
        terms = bound.terms(outputs(policy, of, **rest), outputs(reference, of), of, known)
        return jnp.sum(jnp.where(terms.weight > 0, terms.loss, 0.0) * terms.weight) / jnp.sum(terms.weight), terms

    (value, terms), (to_policy, to_reference) = jax.jit(jax.value_and_grad(mean, argnums=(0, 1), has_aux=True))(policy, reference)
    return terms, value, to_policy, to_reference, known


def metric(terms, name):
    """The mean of a metric, as the step makes it; NaN where no response has it."""
    value, weight = (np.asarray(part, np.float64) for part in terms.metrics[name])
    return np.sum(np.where(weight > 0, value, 0) * weight) / np.sum(weight) if weight.any() else np.nan

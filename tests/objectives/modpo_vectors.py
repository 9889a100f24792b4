"""The golden vectors of MODPO, the A-LoL family and their baselines, and batches that hold them."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np

from jaxalign.types import Batch, Outputs

FILE = pathlib.Path(__file__).parents[1] / "golden" / "vectors-modpo-alol.json"
CASES = {case["id"]: (case["inputs"], case["expected"]) for case in json.loads(FILE.read_text())["cases"]}


def responses(mask, *, reward=None, valid=None, paired=False, **columns):
    """One row and one group for every entry of mask [N, K, L]; slot k of row n has the tokens where mask[n, k] is set."""
    mask = np.asarray(mask, bool)
    count, k, length = mask.shape
    slots = np.where(mask, np.arange(k)[None, :, None], -1).reshape(count, k * length).astype(np.int32)
    ones = np.ones_like(slots)
    return Batch(
        tokens=jnp.asarray(ones), positions=jnp.asarray(ones), segments=jnp.asarray(ones), prefixes=jnp.asarray(0 * ones),
        slots=jnp.asarray(slots),
        reward=jnp.zeros((count, k)) if reward is None else jnp.asarray(reward, jnp.float32).reshape(count, k),
        paired=jnp.full(count, paired),
        valid=jnp.ones((count, k), bool) if valid is None else jnp.asarray(valid),
        columns={name: jnp.asarray(value, jnp.float32) for name, value in columns.items()},
    )  # fmt: skip


def outputs(logps):
    """Outputs with log-probs of any shape [N, ...], a row for every n."""
    logps = jnp.asarray(logps, jnp.float32)
    return Outputs(logps.reshape(len(logps), -1))

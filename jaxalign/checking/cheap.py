"""Checks that need no gradient: where arrays lie, what the first step starts from, whether the forward pass repeats itself."""

from collections.abc import Mapping
import math

import jax
import numpy as np

from jaxalign.checking.steps import Subject
from jaxalign.checking.verdicts import Verdict, close, skipped, verdict
from jaxalign.training.reference import COLUMN

LARGE = 0.01  # share of all parameters from which an array counts as large
EXACT = 1e-5  # nats
TABLE = 0.02  # nats: most that a stored log-prob of the reference may be off on average; bfloat16 rounds by about half of it
DRIFT = {"float32": 1e-3, "bfloat16": 0.1}  # nats per token on average between the run's dtype and float32


def layout(tree, name: str, mesh: Mapping[str, int]) -> Verdict:
    """Every large array of a tree is split over the devices that share the parameters."""
    parts = math.prod(size for axis, size in mesh.items() if axis not in ("data", "tensor"))
    title = f"{name} split over the mesh"
    if parts == 1:
        return skipped(title, "one device holds all of them")
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    whole = sum(leaf.size for _, leaf in leaves)
    bad = [
        (jax.tree_util.keystr(path), leaf.shape)
        for path, leaf in leaves
        if leaf.size >= LARGE * whole and math.prod(leaf.sharding.shard_shape(leaf.shape)) * parts > leaf.size
    ]
    found = f"{len(leaves)} arrays, each on 1/{parts} of the devices" if not bad else f"{bad[0][0]} {bad[0][1]} is whole on every device"
    return verdict(title, not bad, found, "a rule of jaxalign.sharding.RULES leaves the axis of this weight whole")


def start(subject: Subject, arrays: Mapping, *, holds: str, separate: bool, recorded: bool) -> Verdict:
    """The policy is the reference before the first step: the log-probs of the one are those of the other.

    Args:
      holds, separate: of the reference rule.
      recorded: whether the batch has the reference's log-probs from before the run.
    """
    name = "policy = reference at step 0"
    if separate or holds == "nothing":
        return skipped(name, "the reference is another model" if separate else "there is no reference")
    scored = arrays["slots"] >= 0
    if holds == "weights":
        theirs = subject.logps(arrays, params={**(subject.state.frozen or {}), **subject.state.reference})
        apart = np.abs(subject.logps(arrays) - theirs)[scored].max()
        return close(name, float(apart), EXACT, "the reference was not copied from the policy that training starts from")
    if not recorded:
        return skipped(name, "its log-probs are computed as the run goes")
    apart = np.abs(subject.logps(arrays) - arrays["columns"][COLUMN])[scored].mean()
    cause = "the stored log-probs are of another model: the checkpoint has changed since; delete the prepared columns to compute them anew"
    return close(name, float(apart), TABLE, cause)


def repeats(subject: Subject, arrays: Mapping, *, noisy: bool) -> Verdict:
    """The forward pass gives the same bits at every step: nothing random is in it."""
    name = "forward pass repeats itself"
    if noisy:
        return skipped(name, "forward adds noise or warms up, as it is configured")
    first, second = (subject.logps(arrays, exact=False, step=step) for step in (0, 1))
    apart = float(np.abs(first - second).max())
    return verdict(name, apart == 0, f"difference {apart:.1e}", "dropout or other noise is left on")


def drift(subject: Subject, arrays: Mapping, dtype: str) -> Verdict:
    """The log-probs in the run's dtype against those in float32, per scored token."""
    scored = arrays["slots"] >= 0
    apart = np.abs(subject.logps(arrays, exact=False) - subject.logps(arrays))
    mean = float(np.where(scored, apart, 0).sum() / max(scored.sum(), 1))
    cause = "sums run in a narrow type, or activations are too large for it; try model.dtype='float32'"
    return close(f"{dtype} against float32", mean, DRIFT[dtype], cause)


def likelihood(subject: Subject, arrays: Mapping, vocabulary: int) -> Verdict:
    """A trained model finds the responses likelier than chance: the mean log-prob per token is finite and above that of a uniform guess."""
    scored = arrays["slots"] >= 0
    mean = float(subject.logps(arrays)[scored].mean())
    cause = "tokenizer or template do not fit the model, or its weights are random"
    return verdict(
        "responses likelier than chance",
        mean > -1.05 * math.log(vocabulary),
        f"{mean:.3f} nats per token, chance {-math.log(vocabulary):.3f}",
        cause,
    )

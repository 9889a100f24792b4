"""Checks of gradients and of whole steps: layouts, microbatches, meshes, finite differences, the reference, checkpoints, exports."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from jaxalign.checking import steps
from jaxalign.checking.steps import Subject
from jaxalign.checking.verdicts import Verdict, close, skipped, verdict
from jaxalign.hosts import watch
from jaxalign.training import checkpoint

SAME = 1e-4  # most relative difference of gradients that differ in the order of sums alone
FINITE = 0.05  # most relative difference of a finite difference, whose own error is about 1 %
CHANGE = 2e-3  # change of the mean log-prob that a finite difference moves by, in nats


def same_gradient(subject: Subject, name: str, baseline, arrays: Mapping, cause: str, *, parts: int = 1) -> Verdict:
    """Another layout of the same groups, or more microbatches, give the same loss and gradient.

    Args:
      baseline: (metrics, gradient) of the run's own layout in one part.
    """
    metrics = subject.measure(arrays, parts=parts)
    loss = abs(metrics["loss"] - baseline[0]["loss"]) / max(abs(baseline[0]["loss"]), 1e-6)
    return close(name, max(loss, steps.difference(baseline[1], subject.gradient)), SAME, cause)


def finite_difference(subject: Subject, arrays: Mapping) -> Verdict:
    """The gradient of the mean log-prob along itself, in the largest, a middle and the smallest array, against a finite difference."""
    function = subject.mean_logp(arrays)
    _, gradient = function(subject.state.trainable)
    norms = {path: float(norm) for (path, _), norm in zip(_leaves(gradient), steps.leaf_norms(gradient), strict=True)}
    order = sorted((path for path, norm in norms.items() if norm > 1e-2 * max(norms.values())), key=norms.get)
    worst, where = 0.0, ""
    for path in dict.fromkeys((order[0], order[len(order) // 2], order[-1]) if order else ()):  # every process in the same order
        norm, leaf = norms[path], dict(_leaves(gradient))[path]
        size = CHANGE / norm
        values = [float(function(steps.moved(subject.state.trainable, path, leaf / norm, sign * size))[0]) for sign in (1, -1)]
        apart = abs((values[0] - values[1]) / (2 * size) - norm) / norm
        worst, where = max((worst, where), (apart, jax.tree_util.keystr(path)))
    if not order:
        return skipped("gradient = finite difference", "no trained parameter changes a log-prob")
    one = close("gradient = finite difference", worst, FINITE, f"the backward pass of {where}, or of what stands after it, is wrong")
    return one


def reference_stays(train_step: Callable, state, batch, *, rule: str, due: bool):
    """(verdict, state, metrics): one real step changes the policy, and leaves the reference, unless the rule moves it then."""
    name = "a step trains the policy alone"
    before, theirs = _checksums(state.trainable), _checksums(state.reference)
    state, metrics = train_step(state, batch)
    jax.block_until_ready(metrics)
    trained = sum(x != y for x, y in zip(_checksums(state.trainable), before, strict=True))
    moved = sum(x != y for x, y in zip(_checksums(state.reference), theirs, strict=True))
    found = f"{trained} of {len(before)} arrays of the policy change" + (f", {moved} of the reference" if theirs else "")
    cause = (
        "nothing is trained: see model.trainable and the learning rate"
        if not trained
        else f"the reference is the policy itself, or rule {rule!r} moves it"
    )
    return verdict(name, trained > 0 and (due or not moved), found, cause), state, metrics


def resumes(train_step: Callable, state, batch, record: Mapping, folder: Path) -> tuple[Verdict, object]:
    """(verdict, state): a state that was saved and read again is the same, bit for bit, and so is the step after it.

    Args:
      folder: an empty one, or one to make, that all processes see.
    """
    watch.at("the checkpoint of the self-check", limited=False)
    saved = checkpoint.Checkpoints(folder)
    saved.save(state, step=1, run=dict(record))
    saved.wait()
    watch.barrier("the checkpoint of the self-check, written", limited=False)
    again = saved.restore(checkpoint.abstract_like(jax.tree.map(_shape, state)), 1)
    saved.close()
    different = len(steps.unequal(jax.tree.leaves(state), jax.tree.leaves(again)))
    _, first = train_step(state, batch)
    first = jax.device_get(first)
    state, second = train_step(again, batch)
    second = jax.device_get(second)
    apart = [key for key in first if not np.array_equal(first[key], second[key], equal_nan=True)]
    found = f"{different} arrays and {len(apart)} metrics of the next step differ"
    return verdict(
        "resume is exact", not different and not apart, found, "the checkpoint leaves out a part of the state, or the disk changes bits"
    ), state


def exports(save: Callable[[Path], None], load: Callable[[Path], dict], params: Mapping, folder: Path) -> Verdict:
    """An exported folder, which is made here where all processes see it, has the same parameters when it is read again."""
    watch.at("the export of the self-check", limited=False)
    save(folder)
    again = load(folder)
    known = {jax.tree_util.keystr(path): leaf for path, leaf in _leaves(params)}
    theirs = {jax.tree_util.keystr(path): leaf for path, leaf in _leaves(again)}
    common = sorted(known.keys() & theirs.keys())
    different = [common[place] for place in steps.unequal([known[name] for name in common], [theirs[name] for name in common])]
    passed = not different and theirs.keys() <= known.keys() and bool(common)
    return verdict(
        "export round trip",
        passed,
        f"{len(different)} of {len(common)} arrays differ",
        f"the names or shapes of {different[:1]} are written wrongly",
    )


def samples(sampled: list[tuple[np.ndarray, np.ndarray]], forward: list[np.ndarray]) -> Verdict:
    """Log-probs that the sampler gives its tokens against those of the whole forward pass; the first are (tokens, log-probs)."""
    apart = max(
        (float(np.abs(logps - theirs).max()) for (_, logps), theirs in zip(sampled, forward, strict=True) if len(logps)), default=0.0
    )
    cause = "positions or the cache of the sampler are off by one, or attention masks differ"
    return close("sampler = forward pass", apart, 1e-3, cause)


def _leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def _shape(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _checksums(tree) -> list[int]:
    return [int(x) for x in steps.checksums(tree)]

"""Held-out metrics: the objective's own loss and metrics on rows that are not trained on."""

from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np

from jaxalign.data.rows import loader
from jaxalign.data.rows.store import Prepared
from jaxalign.hosts import watch
from jaxalign.reports.estimates import Estimate, change, estimate

DIVIDED = ("accuracy", "ranking/length")  # metrics that are shown by label too
NO_LABELS: Mapping[str, np.ndarray] = {}
ByPrompt = dict[str, tuple[np.ndarray, np.ndarray]]  # metric -> sums of value * weight, and of weight, of every prompt: float64[n] twice


def evaluate(
    eval_step,
    state,
    sets: dict[str, Prepared],
    *,
    rows: int,
    follow: Iterable[Callable[[ByPrompt], None]] = (),
    labels: Mapping[str, np.ndarray] = NO_LABELS,
) -> dict[str, Estimate]:
    """Held-out metrics by name, each with its standard error and the number of prompts it is measured on.

    Metrics of a set with a name stand under NAME/. Functions in `follow` get the metrics by prompt of the first set. `labels` are those
    of `divided`, whose metrics come too.
    """
    by_prompt = {name: measure(eval_step, state, prepared, rows=rows) for name, prepared in sets.items()}
    for function in follow:
        function(next(iter(by_prompt.values())))
    return estimates(by_prompt | divided(by_prompt, labels))


def divided(sets: dict[str, ByPrompt], labels: Mapping[str, np.ndarray]) -> dict[str, ByPrompt]:
    """The metrics in DIVIDED of the prompts of every label, as sets "by/LABEL", below the name of the set that they are of.

    Args:
      labels: set -> the label of every prompt in the order of the set's rows, "" of places without a prompt.
    """
    parts = {}
    for where, (name, label) in places(labels).items():
        here = np.flatnonzero(labels[name] == label)
        parts[where] = {metric: tuple(x[here] for x in values) for metric, values in sets[name].items() if metric in DIVIDED}
    return parts


def places(labels: Mapping[str, np.ndarray]) -> dict[str, tuple[str, str]]:
    """What stands before the metrics of every label -> (name of the set, label)."""
    pairs = [(name, label) for name, own in labels.items() for label in sorted(set(own.tolist()) - {""})]
    return {"/".join(filter(None, (name, "by", label))): (name, label) for name, label in pairs}


def names(eval_step, state, sets: dict[str, Prepared], *, rows: int) -> set[str]:
    """Names of the metrics that `evaluate` will give. Nothing is computed: the evaluation of a batch of each set is traced.

    Args:
      state: a TrainState, or the shapes of one.
    """
    traced = {
        name: jax.eval_shape(eval_step, state, loader.to_device(next(_batches(prepared, rows=rows)))) for name, prepared in sets.items()
    }
    return set(_by_name(traced))


def estimates(sets: dict[str, ByPrompt]) -> dict[str, Estimate]:
    """The metrics of every set, estimated over its prompts; those of a set with a name stand under NAME/."""
    return {name: estimate(*parts) for name, parts in _by_name(sets).items()}


def changes(before: dict[str, ByPrompt], after: dict[str, ByPrompt]) -> dict[str, Estimate]:
    """How every metric changed, over the prompts that have it before and after; the error of a change is smaller than those of its ends."""
    first = _by_name(before)
    return {name: change(first[name], parts) for name, parts in _by_name(after).items() if name in first}


def measure(eval_step, state, prepared: Prepared, *, rows: int) -> ByPrompt:
    """The metrics of every prompt: one pass over a prepared set, in batches of `rows` rows, the last one filled up with weight 0.

    Prompts stand in the order of the set's rows, whatever the number of hosts and devices.
    """
    parts = []
    for number, arrays in enumerate(_batches(prepared, rows=rows)):
        watch.at(f"batch {number} of an evaluation")
        measured = jax.block_until_ready(eval_step(state, loader.to_device(arrays)))  # on all devices: `device_get` waits for one of them
        parts.append(jax.device_get(measured))
    return {name: tuple(np.concatenate([part[name][i] for part in parts]).astype(np.float64) for i in (0, 1)) for name in parts[0]}


def _batches(prepared, *, rows):
    hosts = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    return loader.iterate(loader.eval_batches(prepared, rows=rows, **hosts))


def _by_name(sets):
    """Metric -> its value, of all sets: those of a set with a name stand under NAME/."""
    return {f"{name}/{metric}" if name else metric: value for name, metrics in sets.items() for metric, value in metrics.items()}

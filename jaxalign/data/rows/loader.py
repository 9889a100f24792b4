"""Batches of prepared rows: a pure function of (seed, step), the same global batch on any number of hosts.

The order is grain's: every set is shuffled anew each epoch (or drawn, see `data.sampling`) and sets are mixed by weight, row by row.
Nothing has to be saved but the step, and nothing has to be replayed to continue from it.
"""

from collections.abc import Iterator, Sequence
import math
import sys

import grain
import jax
import numpy as np

from jaxalign import sharding
from jaxalign.data.rows import pack
from jaxalign.data.rows.sampling import Rows, Sampling
from jaxalign.data.rows.store import Prepared
from jaxalign.types import Batch

SHUFFLE = Sampling()


def batches(
    sets: Sequence[Prepared],
    *,
    rows: int,
    seed: int,
    steps: int,
    sampling: Sampling = SHUFFLE,
    skipped: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """A dataset whose element [step] is this host's part of the batch of that step: a dict of numpy arrays, see `pack.assemble`.

    Rows are drawn from the sets in proportion to their weights. Within a set no row comes twice before every row came once, unless
    `sampling` draws groups. A batch may hold the end of one epoch and the beginning of the next. Host h of H gets rows h * rows / H to
    (h + 1) * rows / H. The element of a step is the batch of step + `skipped`.

    Raises:
      ValueError: the sets do not fit together, are smaller than a batch, the batch does not split over the hosts, or a set lacks
        what `sampling` goes by.
    """
    order = _order(sets, rows=rows, seed=seed, sampling=sampling)
    sharding.check_rows(rows, hosts=process_count, **_axes())
    here = rows // process_count

    def batch(step: int) -> dict[str, np.ndarray]:
        start = (step + skipped) * rows + process_index * here
        return _assemble(sets, [order[start + i] for i in range(here)])

    return grain.MapDataset.range(steps).map(batch)


def eval_batches(
    prepared: Prepared, *, rows: int, process_index: int = 0, process_count: int = 1
) -> grain.MapDataset:
    """One pass over a set in its own order; the last batch is filled up with invalid rows (segments 0, valid False)."""
    sharding.check_rows(rows, hosts=process_count, **_axes())
    here = rows // process_count

    def batch(step: int) -> dict[str, np.ndarray]:
        start = step * rows + process_index * here
        members = [(0, prepared.plan[row]) if row < len(prepared) else None for row in range(start, start + here)]
        return _assemble([prepared], members)

    return grain.MapDataset.range(math.ceil(len(prepared) / rows)).map(batch)


def iterate(dataset: grain.MapDataset, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """The elements from `start_step` on, assembled ahead of time by a few threads."""
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    return iter(dataset.slice(slice(start_step, None)).to_iter_dataset(options))


def steps_per_epoch(sets: Sequence[Prepared], *, rows: int, sampling: Sampling = SHUFFLE, seed: int = 0) -> int:
    """Steps that go once through as many rows as an epoch of the sets has together, rounded up."""
    return math.ceil(sum(_epoch(prepared, sampling, seed + number)[1] for number, prepared in enumerate(sets)) / rows)


def groups_per_row(sets: Sequence[Prepared], *, sampling: Sampling = SHUFFLE, seed: int = 0) -> float:
    """Mean number of groups (examples) in a row of the mixture; 0 without a set."""
    if not sets:
        return 0.0
    weights = np.array([prepared.weight for prepared in sets], float)
    epochs = [_epoch(prepared, sampling, seed + number) for number, prepared in enumerate(sets)]
    means = np.array([groups / rows for groups, rows in epochs])
    return float((weights / weights.sum() * means).sum())


def counts(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """Of a batch on the host: `tokens` that are not padding, `scored_tokens`, `groups` with a valid response."""
    return {
        "tokens": int(np.count_nonzero(arrays["segments"])),
        "scored_tokens": int(np.count_nonzero(arrays["slots"] >= 0)),
        "groups": int(np.count_nonzero(arrays["valid"].any(1))),
    }


def shared(arrays: dict[str, np.ndarray]) -> Batch:
    """The same arrays on every host of the mesh in scope as one global `Batch`, of which each host gives its own rows.

    Raises:
      ValueError: as `to_device`.
    """
    hosts = sorted({device.process_index for device in jax.sharding.get_mesh().devices.flat})
    place, count = hosts.index(jax.process_index()), len(hosts)

    def here(array):
        part = len(array) // count
        return array[place * part : (place + 1) * part]

    sharding.check_rows(len(arrays["tokens"]), hosts=count, **_axes())
    return to_device(jax.tree.map(here, arrays))


def to_device(arrays: dict[str, np.ndarray]) -> Batch:
    """This host's arrays as one global `Batch`, split by rows over the mesh in scope.

    Raises:
      ValueError: the rows of all hosts together do not split over the data and fsdp axes, or their tokens over context.
    """
    rows, tokens = arrays["tokens"].shape
    sharding.check_rows(rows * jax.process_count(), hosts=jax.process_count(), **_axes())
    sharding.check_tokens(tokens, context=sharding.mesh_shape().get("context", 1))

    def place(array):
        return jax.make_array_from_process_local_data(sharding.named(sharding.rows_spec(array.ndim)), array)

    return Batch(**jax.tree.map(place, arrays))


def _axes():
    # of the mesh in scope that rows are split over
    return {name: sharding.mesh_shape().get(name, 1) for name in ("data", "fsdp")}


def _epoch(prepared, sampling, seed):
    # (groups, rows) of an epoch
    if sampling.kind == "shuffle":
        return int(np.count_nonzero(prepared.plan >= 0)), len(prepared)
    drawn = Rows(prepared, sampling, seed=seed)
    return drawn.groups, drawn.rows


def _order(sets, *, rows, seed, sampling):
    if not sets:
        raise ValueError("there is no prepared set to draw batches from; set data.train.")
    for prepared in sets:
        if len(prepared) < rows:
            raise ValueError(
                f"{prepared.folder.parent.name} has {len(prepared)} rows of {prepared.row_tokens} tokens, fewer than one batch of "
                f"{rows} rows; use a smaller batch, a smaller data.row_tokens, or more data."
            )
        for key in ("row_tokens", "tokenizer"):
            if prepared.meta[key] != sets[0].meta[key]:
                raise ValueError(
                    f"{prepared.folder.parent.name} has {key} {prepared.meta[key]} and {sets[0].folder.parent.name} has "
                    f"{sets[0].meta[key]}; a mixture needs the same in every set: prepare them with one config."
                )
        _check_columns(prepared, sets[0])
    ordered = [_ordered(prepared, number, rows=rows, seed=seed + number, sampling=sampling) for number, prepared in enumerate(sets)]
    if len(ordered) == 1:
        return ordered[0]
    return grain.MapDataset.mix(ordered, weights=[prepared.weight for prepared in sets])


def _ordered(prepared, number, *, rows, seed, sampling):
    # the (number of the set, groups of the row) of every row, without end
    if sampling.kind == "shuffle":
        shuffled = grain.MapDataset.range(len(prepared)).seed(seed).shuffle().repeat()
        return shuffled.map(lambda row: (number, prepared.plan[row]))
    drawn = Rows(prepared, sampling, seed=seed)
    if drawn.rows < rows:
        raise ValueError(
            f"{prepared.folder.parent.name} has {drawn.groups} groups with {sampling.column!r} above 0 in {drawn.rows} rows, fewer than "
            f"one batch of {rows} rows; use a smaller batch, more data, or data.sampling='shuffle'."
        )
    return grain.MapDataset.range(sys.maxsize).map(lambda position: (number, drawn[position]))


def _check_columns(prepared, first):
    has, wanted = prepared.groups.column_dims, first.groups.column_dims
    if has != wanted:
        raise ValueError(
            f"{prepared.folder.parent.name} has the columns {tuple(sorted(has))} and {first.folder.parent.name} has "
            f"{tuple(sorted(wanted))}; a mixture needs the same in every set, of the same kind: a number a response or a token. Give every "
            "source the same keep_columns, and annotate all sets."
        )


def _assemble(sets, members):
    # Sets may differ in groups a row and responses a group: a batch has the largest of each, whatever rows are in it.
    arrays = pack.empty_batch(
        len(members),
        groups=max(prepared.plan.shape[1] for prepared in sets),
        responses=max(prepared.groups.responses for prepared in sets),
        row_tokens=sets[0].row_tokens,
        columns=sets[0].groups.column_dims,
    )
    for at, member in enumerate(members):
        if member is not None:
            number, groups = member
            prepared = sets[number]
            pack.write_row(arrays, at, prepared.groups, groups, share_prompt=prepared.share_prompt)
    return arrays

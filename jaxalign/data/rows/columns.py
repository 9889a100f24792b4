"""Computed columns of prepared sets on disk, and how their numbers find their way back from rows to the set's own order.

    NAME-HASH/columns/COLUMN-HASH/         meta.json VALUES.npy ...

The hash covers the weights, the rows and the code that made the column; a folder that exists is complete, as it appears by one rename.
"""

from collections.abc import Mapping
import os
from pathlib import Path
import shutil

import numpy as np

from jaxalign.data.rows import pack, store
from jaxalign.manifest import content_hash

RESERVED = ("reward", "mismatched", "reference_logps")  # names of columns that a run makes itself
HALF = 1 << 20  # a place is carried in two float32 columns, each of which is exact below 2^24


def path(prepared: store.Prepared, name: str, depends: Mapping) -> Path:
    """Where the column of this name, made from what `depends` says, lies beside the prepared rows."""
    rows = prepared.folder.name if prepared.groups.donors is not None else ""  # only donors depend on the row plan
    return prepared.folder.parent / "columns" / f"{name}-{content_hash({**depends, 'rows': rows})}"


def is_sound(folder: Path) -> bool:
    """Whether the column is there in full, every file as it was written."""
    return store.is_complete(folder) and not store.META.damage(folder)


def write(folder: Path, values: Mapping[str, np.ndarray], *, meta: Mapping) -> None:
    """Writes the arrays of one column as `folder`, which appears when complete."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    with store.clear_disk_errors(folder.parent.parent):
        partial.mkdir(parents=True)
        for name, array in values.items():
            np.save(partial / f"{name}.npy", array)
        store.META.write(partial, meta)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)


def read(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a column: its name, and "NAME@mismatched" where the set has donors.

    Raises:
      ValueError: a file is damaged.
    """
    try:
        return {file.stem: np.load(file) for file in sorted(folder.glob("*.npy"))}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"column {folder} is damaged: {error}. Delete the folder and start again.") from error


def check(folder: Path, kept: Mapping[str, np.ndarray], computed: Mapping[str, np.ndarray], *, tolerance: float) -> None:
    """Raises ValueError where numbers computed again (NaN: not computed) are not those kept, by their mean absolute difference."""
    for name, values in computed.items():
        stored = kept.get(name)
        if stored is None or stored.shape != values.shape:
            raise ValueError(f"column {folder} has other rows than the set; delete the folder and start again.")
        known = ~np.isnan(values)
        if not known.any():
            continue
        difference = float(np.abs(values - stored)[known].mean())
        if not difference <= tolerance:
            raise ValueError(
                f"column {folder} does not agree with the model that it names: the first rows, computed again, differ by {difference:.3g} "
                f"on average (allowed: {tolerance}). Delete the folder to have it computed anew."
            )


def numbered(count: int, *, split: int, donors: bool) -> dict[str, np.ndarray]:
    """Token columns that carry each token's own place, donors' tokens from `split` on; `places` reads them back from rows."""
    high, low = np.divmod(np.arange(1, count + 1), HALF)
    found = {}
    for name, values in (("high", high), ("low", low)):
        own, donated = np.split(values.astype(np.float32), [split])
        found[name] = own
        if donors:
            found[f"{name}@{pack.MISMATCHED}"] = donated
    return found


def numbered_responses(shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Response columns float32[n, K] that carry each response's own place, row by row."""
    high, low = np.divmod(np.arange(1, shape[0] * shape[1] + 1), HALF)
    return {"high": high.reshape(shape).astype(np.float32), "low": low.reshape(shape).astype(np.float32)}


def places(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Place of every token or response of assembled rows: int64, -1 where there is none."""
    return columns["high"].astype(np.int64) * HALF + columns["low"].astype(np.int64) - 1

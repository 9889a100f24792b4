"""Prepared sets on disk: tokenized groups as .npy columns in one folder, and row plans in folders below it.

    NAME-HASH/            meta.json tokens.npy scored.npy offsets.npy reward.npy paired.npy valid.npy source_rows.npy prompts.npy
                          column-NAME.npy for every one of keep_columns
    NAME-HASH/rows-HASH/  meta.json plan.npy (donors.npy)

The hashes in the names cover everything that the content depends on, and a folder appears by one rename, when complete. Its meta.json holds
the size and the SHA-256 of every file: a damaged set is found when it is opened, and made again where its source is at hand.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import errno
import fcntl
import json
import logging
import os
from pathlib import Path
import shutil

import numpy as np

from jaxalign.data.raw.counts import Counts
from jaxalign.data.rows import pack
from jaxalign.manifest import Manifest

LOG = logging.getLogger(__name__)
META = Manifest("meta.json", closed=False, deep=False)  # of folders of groups, of row plans, of computed columns
GROUPS = ("tokens", "scored", "offsets", "reward", "paired", "valid")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared set that is open: its groups as memory maps and its row plan."""

    folder: Path  # the rows-HASH folder
    meta: dict  # of the groups and of the rows, in one dict
    groups: pack.Groups
    plan: np.ndarray  # int32[rows, G]; -1 = no group
    source_rows: np.ndarray  # int64[n]; number of the raw row that each group came from
    weight: float = 1.0  # share of its rows in a mixture, relative to the weights of the other sets

    @property
    def row_tokens(self) -> int:
        """T."""
        return self.meta["row_tokens"]

    @property
    def share_prompt(self) -> bool:
        return self.meta["share_prompt"]

    def __len__(self) -> int:
        return len(self.plan)

    def with_columns(self, columns: Mapping[str, np.ndarray]) -> "Prepared":
        """The same set with further columns, of the shapes that `pack.Groups` names; one of the same name takes the place of the old.

        Raises:
          ValueError: a column of another shape.
        """
        return dataclasses.replace(self, groups=dataclasses.replace(self.groups, columns={**self.groups.columns, **columns}))


def is_complete(folder: str | Path) -> bool:
    """Whether a folder written by this module is there in full (its meta.json is written last, then the folder renamed)."""
    return META.is_in(folder)


def read(folder: str | Path, columns: Mapping[str, np.ndarray] | None = None, *, weight: float = 1.0) -> Prepared:
    """Opens the rows-HASH folder of a prepared set, with further columns (see `Prepared.with_columns`) beside those that it holds.

    Raises:
      ValueError: the folder is not a prepared set, or a file is missing or not as it was written.
    """
    folder = Path(folder)
    if not is_complete(folder) or not is_complete(folder.parent):
        raise ValueError(
            f"{folder} is not a prepared set: it or its parent has no meta.json. Give the rows-... folder that "
            "`python -m jaxalign.prepare` prints, or run it again."
        )
    for part in (folder.parent, folder):
        wrong = META.damage(part)
        if wrong:
            raise ValueError(
                f"prepared set {part} is damaged: {wrong}. Run `python -m jaxalign.prepare --config ...` with the config that it is from, "
                "which makes it again, or delete the folder."
            )
    groups = read_groups(folder.parent)
    meta = {**META.read(folder.parent), **META.read(folder)}
    if meta.get("mismatched"):
        groups = dataclasses.replace(groups, donors=_column(folder, "donors"))
    prepared = Prepared(folder, meta, groups, _column(folder, "plan"), _column(folder.parent, "source_rows"), weight)
    return prepared.with_columns(columns or {})


def read_groups(folder: str | Path) -> pack.Groups:
    """The groups of a NAME-HASH folder with their columns, without a row plan."""
    folder = Path(folder)
    columns = {name: _column(folder, f"column-{name}") for name in META.read(folder).get("keep_columns", ())}
    return pack.Groups(**{name: _column(folder, name) for name in GROUPS}, columns=columns)


def read_prompts(folder: str | Path) -> np.ndarray:
    """For every group of a NAME-HASH folder a number of its prompt before any cut, uint64[n]: equal only for equal prompts."""
    return _column(Path(folder), "prompts")


def _column(folder, name):
    path = folder / f"{name}.npy"
    try:
        return np.load(path, mmap_mode="r" if path.stat().st_size > 1 << 20 else None)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"prepared set {folder} is damaged: {path.name}: {error}. Delete the folder, and prepare again.") from error


@contextlib.contextmanager
def exclusive(path: str | Path) -> Iterator[None]:
    """Holds a lock file; a second process waits until the first has left or died."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            LOG.info("another process is preparing %s; waiting for it", path.name)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def clear_disk_errors(folder: str | Path) -> Iterator[None]:
    """Turns "no space left" into an OSError that names the folder, the space and the way out."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = shutil.disk_usage(Path(folder).parent).free >> 20
        raise OSError(
            error.errno,
            f"the disk of {folder} is full ({free} MiB free). What is finished is kept: make room, or set data.prepared_dir to "
            "another disk, and start again; it continues with the missing shards.",
        ) from error


def write_shard(folder: Path, number: int, groups: list, prompts: list[int], counts: Counts, names: Sequence[str] = ()) -> None:
    """Writes shard `number` from encoded groups (see `encode.Encoded`), the numbers of their uncut prompts, and the counts, atomically.

    `names`: of the columns of the groups.
    """
    pieces = [piece for group in groups for piece in (group.prompt, *group.responses)]
    scored = [mask for group in groups for mask in (np.zeros(len(group.prompt), np.uint8), *group.scored)]
    columns = {
        "tokens": np.concatenate([np.zeros(0, np.int32), *pieces]).astype(np.int32),
        "scored": np.concatenate([np.zeros(0, np.uint8), *scored]).astype(np.uint8),
        "lengths": np.array([len(piece) for piece in pieces], np.int32),
        "sizes": np.array([len(group.responses) for group in groups], np.int32),
        "reward": np.array([reward for group in groups for reward in group.rewards], np.float32),
        "paired": np.array([group.paired for group in groups], bool),
        "source_rows": np.array([group.row for group in groups], np.int64),
        "prompts": np.array(prompts, np.uint64),
        **{f"column-{name}": np.array([value for group in groups for value in group.columns[name]], np.float32) for name in names},
    }
    path = shard_path(folder, number)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            np.savez(file, counts=np.array(json.dumps(counts.to_dict())), **columns)
            _sync(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)


def shard_path(folder: Path, number: int) -> Path:
    """Where shard `number` lies: it is there in full or not at all."""
    return folder / f"shard-{number:05d}.npz"


def shard_counts(folder: Path, shards: int) -> Counts:
    """The counts of all shards together."""
    total = Counts()
    for number in range(shards):
        with np.load(shard_path(folder, number)) as shard:
            total.merge(Counts.from_dict(json.loads(str(shard["counts"]))))
    return total


def merge_shards(partial: Path, final: Path, *, shards: int, meta: dict) -> None:
    """Joins the shards under `partial` into the columns of `final`, which appears by a rename, and removes the shards.

    K is the largest number of responses of any group; groups with fewer get empty pieces and valid False.
    """
    sizes = [_shard_array(partial, number, "sizes") for number in range(shards)]
    pieces = [_shard_array(partial, number, "lengths") for number in range(shards)]
    count, total = sum(len(part) for part in sizes), sum(int(part.sum()) for part in pieces)
    responses = max((int(part.max()) for part in sizes if len(part)), default=1)
    present = [np.arange(responses) < part[:, None] for part in sizes]

    def spread(values, where):
        table = np.zeros(where.shape, values.dtype)
        table[where] = values
        return table

    def stored(name):
        return (_shard_array(partial, number, name) for number in range(shards))

    with_prompt = [np.concatenate([np.ones((len(part), 1), bool), part], 1) for part in present]
    lengths = np.concatenate([spread(*parts).ravel() for parts in zip(pieces, with_prompt, strict=True)])
    offsets = np.concatenate([np.zeros(1, np.int64), lengths.cumsum(dtype=np.int64)])
    folder = partial / "columns"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _write_column(folder / "tokens.npy", (total,), np.int32, stored("tokens"))
    _write_column(folder / "scored.npy", (total,), np.uint8, stored("scored"))
    _write_column(folder / "offsets.npy", offsets.shape, np.int64, [offsets])
    _write_column(folder / "reward.npy", (count, responses), np.float32, map(spread, stored("reward"), present))
    _write_column(folder / "paired.npy", (count,), np.bool_, stored("paired"))
    _write_column(folder / "valid.npy", (count, responses), np.bool_, present)
    _write_column(folder / "source_rows.npy", (count,), np.int64, stored("source_rows"))
    _write_column(folder / "prompts.npy", (count,), np.uint64, stored("prompts"))
    for name in meta.get("keep_columns", ()):
        name = f"column-{name}"
        _write_column(folder / f"{name}.npy", (count, responses), np.float32, map(spread, stored(name), present))
    _publish(folder, final, {**meta, "groups": count, "responses": responses, "tokens": total})
    shutil.rmtree(partial)


def write_plan(final: Path, plan: np.ndarray, *, donors: np.ndarray | None = None, meta: dict) -> None:
    """Writes a row plan (int32[rows, G]) as folder `final`, with the mismatched responses (int32[n, 3]) if there are any."""
    partial = final.with_name(f".{final.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    np.save(partial / "plan.npy", plan)
    if donors is not None:
        np.save(partial / "donors.npy", donors)
    _publish(partial, final, meta)


def write_once(final: str | Path, write: Callable[[Path], None]) -> Path:
    """The folder `final`, made by `write(final)` unless it is complete and sound already; one process at a time.

    A damaged folder is named, removed and made again: nothing in it is more than the source and the settings give.
    """
    final = Path(final)
    if not is_complete(final) or META.damage(final):
        with exclusive(final.with_name(f".{final.name}.lock")), clear_disk_errors(final):
            wrong = META.damage(final) if is_complete(final) else ""
            if wrong:
                LOG.warning("%s is damaged: %s; it is made again", final, wrong)
            if wrong or not is_complete(final):
                shutil.rmtree(final, ignore_errors=True)
                write(final)
    return final


def _publish(partial, final, meta):
    META.write(partial, meta)
    os.replace(partial, final)


def _sync(file):
    file.flush()
    os.fsync(file.fileno())


def _shard_array(folder, number, name):
    with np.load(shard_path(folder, number)) as shard:
        return shard[name]


def _write_column(path, shape, dtype, parts):
    # Written part by part through the file, not through a memory map: a full disk is then an error and not a killed process.
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).tobytes())
        _sync(file)

"""A copy of a run in an object store (gs://, s3://, ...), so that it outlives the disk that it trains on.

URL/checkpoints/STEP holds what WORKDIR/checkpoints/STEP holds, and the other files of the run lie beside it as they do in WORKDIR. The
manifest of a checkpoint is written last and deleted first: without it a copy is not complete, and nobody reads it. The store is reached
through fsspec, whose libraries (s3fs, gcsfs, ...) read keys and addresses from the environment.
"""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
import shutil

from jaxalign import hidden
from jaxalign.training import runs
from jaxalign.training.runs import SEAL, CheckpointError

CHECKPOINTS = "checkpoints"  # folder of a run
APART = (CHECKPOINTS, "damaged")  # folders of a run whose files are not copied one by one
PARTIAL = ".from-mirror-"  # what the name of a checkpoint that is being fetched begins with


class Mirror:
    """The copy of the run in `workdir` at `url`. One process of a run uses it.

    Raises:
      ValueError: the url is none, or the library that reads it is missing.
    """

    def __init__(self, url: str, workdir: Path):
        import fsspec

        try:
            self._store, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"train.mirror={hidden.without(url)!r} cannot be used: {_line(error)}. It is a folder like s3://BUCKET/RUN "
                "(pip install 'jaxalign[s3]') or gs://BUCKET/RUN (pip install 'jaxalign[gcs]')."
            ) from error
        self.url, self.workdir, self._root = hidden.without(url), workdir, self._root.rstrip("/")
        self._known = set(runs.steps(workdir))  # steps that are or were in the workdir: only those are deleted
        self._copied: dict[str, tuple[int, int]] = {}  # file beside the checkpoints -> its size and time when it was copied

    def fetch(self, *, tell: Callable[[str], None]) -> None:
        """Brings the run into the workdir where its copy is further than that, and checks every file of its checkpoints.

        Raises:
          CheckpointError: the store cannot be read or written, or all checkpoints in it are damaged and the workdir has none.
        """
        try:
            self._store.pipe_file(f"{self._root}/.writable", b"1")  # so that a store that refuses is known before anything is compiled
            there, here = self._finished(), runs.steps(self.workdir)
            if max(there, default=-1) <= max(here, default=-1):
                return
            tell(f"the run goes on from its copy at {self.url}, which has the checkpoints of steps {', '.join(map(str, sorted(there)))}.")
            reasons = [self._fetch_checkpoint(step) for step in sorted(there.keys() - set(here))]
            for reason in filter(None, reasons):
                tell(f"{reason}; it is passed over.")
            if all(reasons) and not here:
                raise CheckpointError(f"every checkpoint at {self.url} is damaged; choose another train.mirror, or none.")
            for name in self._names(self._root):
                if name.split("/")[0] not in (*APART, ".writable"):
                    self._fetch_file(name, self.workdir / name)
        except CheckpointError:
            raise
        except Exception as error:  # of whatever kind the library of the store raises
            raise CheckpointError(f"train.mirror={self.url} cannot be read and written: {_line(error)}.") from error

    def copy(self) -> None:
        """Brings the copy up to date: logs and other files that changed, then finished checkpoints, then what the run has deleted.

        In this order the logs of the copy have the lines of every step before its newest checkpoint. A run that goes on drops later ones.

        Raises:
          CheckpointError: the store cannot be read or written.
        """
        try:
            self._copy()
        except Exception as error:  # of whatever kind the library of the store raises
            raise CheckpointError(
                f"the run is whole in {self.workdir}, but could not be copied to {self.url}: {_line(error)}. The next save, or the same "
                "command, tries again."
            ) from error

    def _copy(self):
        there, here = self._finished(), [step for step in runs.steps(self.workdir) if SEAL.is_in(self._folder(step))]
        self._known |= set(here)
        for file in self._files():
            state, name = file.stat(), file.relative_to(self.workdir).as_posix()
            if self._copied.get(name) != (state.st_size, state.st_mtime_ns):
                self._store.put_file(str(file), f"{self._root}/{name}")
                self._copied[name] = state.st_size, state.st_mtime_ns
        for step in here:
            if there.get(step) != (self._folder(step) / SEAL.name).read_bytes():
                self._copy_checkpoint(step)
        for step in (there.keys() & self._known) - set(here):
            self._delete(step)

    def _copy_checkpoint(self, step):
        folder, target = self._folder(step), self._place(step)
        self._delete(step)  # parts of an earlier attempt
        files = SEAL.read(folder)["files"]
        self._store.put([str(folder / name) for name in files], [f"{target}/{name}" for name in files])
        sizes = {name: self._store.size(f"{target}/{name}") for name in files}
        if wrong := [name for name, (size, _) in files.items() if sizes[name] != size]:
            raise OSError(f"{target}/{wrong[0]} has {sizes[wrong[0]]} bytes after it was copied, and not {files[wrong[0]][0]}")
        self._store.put_file(str(folder / SEAL.name), f"{target}/{SEAL.name}")

    def _delete(self, step):
        target = self._place(step)
        for path in (f"{target}/{SEAL.name}", target):
            if self._store.exists(path):
                self._store.rm(path, recursive=True)

    def _fetch_checkpoint(self, step) -> str:
        """Why a checkpoint could not be had, as a sentence without its end; "" where it is in the workdir now."""
        source, target = self._place(step), self._folder(step)
        partial = target.with_name(f"{PARTIAL}{step}")
        shutil.rmtree(partial, ignore_errors=True)
        for name in self._names(source):
            self._fetch_file(f"{CHECKPOINTS}/{step}/{name}", partial / name)
        if reason := SEAL.damage(partial):
            shutil.rmtree(partial)
            return f"the copy of the checkpoint of step {step} at {self.url} is damaged: {reason}"
        partial.rename(target)
        return ""

    def _fetch_file(self, name, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        self._store.get_file(f"{self._root}/{name}", str(target))

    def _finished(self) -> dict[int, bytes]:
        """Step -> the manifest of every finished checkpoint in the store."""
        seals = [name.split("/") for name in self._names(f"{self._root}/{CHECKPOINTS}") if name.endswith(f"/{SEAL.name}")]
        steps = [int(parts[0]) for parts in seals if len(parts) == 2 and runs.STEP.fullmatch(parts[0])]
        return {step: self._store.cat_file(f"{self._place(step)}/{SEAL.name}") for step in steps}

    def _names(self, folder) -> list[str]:
        """Paths of all files below a folder of the store; a name that leads out of it is an error."""
        names = [path.removeprefix(folder).lstrip("/") for path in self._store.find(folder)] if self._store.exists(folder) else []
        for name in names:
            if ".." in PurePosixPath(name).parts or "\\" in name:
                raise CheckpointError(f"{self.url} holds a file {name!r}, which would lie outside of the run; delete it there.")
        return names

    def _files(self) -> Iterator[Path]:
        """Files of the run that are copied one by one: all but those of checkpoints, hidden ones and those that are not finished."""
        for file in sorted(self.workdir.rglob("*")):
            parts = file.relative_to(self.workdir).parts
            if parts[0] not in APART and not any(part.startswith(".") for part in parts) and file.suffix != ".partial" and file.is_file():
                yield file

    def _folder(self, step) -> Path:
        return runs.checkpoints(self.workdir) / str(step)

    def _place(self, step) -> str:
        return f"{self._root}/{CHECKPOINTS}/{step}"


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

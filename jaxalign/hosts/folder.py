"""Folders that all processes of a run see: each writes its part of every checkpoint there, and hours may pass before the first."""

from collections.abc import Iterator
import contextlib
from pathlib import Path
import shutil
import tempfile
import uuid

from jaxalign.hosts import watch
from jaxalign.hosts.channel import connected


def check_seen_by_all(folder: str | Path) -> None:
    """Looks on every process for a file that the first one writes into the folder; nothing is to do where there is one process.

    Raises:
      ValueError: in every process, where some do not see it; they are named.
    """
    if (channel := connected()) is None:
        return
    key, written = f"file in {Path(folder).name}", None
    if not channel.number:
        written = Path(folder) / f".seen-{uuid.uuid4().hex}"  # a new name: no file system remembers that it is not there
        written.touch()
        channel.put(key, written.name)
    watch.barrier(f"the {key}")
    name = channel.get(key)
    if not (Path(folder) / name).exists():
        channel.put(f"{name}/{channel.number}", "missing")
    watch.barrier(f"the {key}, looked for")
    if written:
        written.unlink(missing_ok=True)
    if blind := sorted(map(int, channel.below(name))):
        who = ", ".join(map(str, blind))
        raise ValueError(
            f"{folder} is not the same folder on all hosts: process {who} cannot see what process 0 wrote there. Give a --workdir that all "
            "hosts see, such as an NFS share or a mounted bucket."
        )


@contextlib.contextmanager
def scratch(below: Path | None) -> Iterator[Path]:
    """An empty folder in `below` that all processes see; it is removed when all are done. None: of the system's, for one process alone.

    Raises:
      ValueError: in every process, where some do not see the folder of the first one.
    """
    channel = connected()
    first = channel is None or not channel.number
    made = first and below is not None and not below.exists()
    if first and below is not None:
        below.mkdir(parents=True, exist_ok=True)
    if below is not None:
        check_seen_by_all(below)
    own = Path(tempfile.mkdtemp()) if below is None else below / f".scratch-{uuid.uuid4().hex}"
    try:
        if first:
            own.mkdir(exist_ok=True)
        if channel is not None:
            if first:
                channel.put("scratch", own.name)
            watch.barrier("the scratch folder")
            own = below / channel.get("scratch")
        yield own
        watch.barrier("the scratch folder, used", limited=False)
    finally:
        if first:
            shutil.rmtree(own, ignore_errors=True)
            if made:
                with contextlib.suppress(OSError):  # somebody else has put something there
                    below.rmdir()

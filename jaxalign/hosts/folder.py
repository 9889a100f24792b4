"""Whether all processes of a run see one folder: each writes its part of every checkpoint there, and hours may pass before the first."""

from pathlib import Path
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

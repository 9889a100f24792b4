"""Files of a name that a person gave: refused before the work where they cannot be written, and written whole or not at all."""

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path

from jaxalign.hosts.alone import alone

FLAG = "--out"


def check_file(file: str | Path) -> None:
    """Raises ValueError where the name is that of a folder."""
    if Path(file).is_dir():
        raise ValueError(f"{FLAG} {file} is a folder; name a file in it.")


def check_new(file: str | Path, *, made: str = "") -> None:
    """Raises ValueError where there is such a file already, or it is a folder.

    Args:
      file: what the command will write.
      made: what it is, where its name is not that of --out but made of it.
    """
    if made and Path(file).exists():
        raise ValueError(f"{made}, {file}, is there already; give another {FLAG}, or remove it.")
    check_file(file)
    if Path(file).exists():
        raise ValueError(f"{FLAG} {file} is there already; name another file, or remove it.")


@contextlib.contextmanager
def whole(file: str | Path) -> Iterator[Path]:
    """A file to write in, FILE.partial, that gets its name at the end or leaves nothing behind; no other process has it meanwhile.

    Raises:
      ValueError: another process writes it, or nobody can.
    """
    partial = Path(f"{file}.partial")
    with contextlib.ExitStack() as held:
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(partial, f"another process writes {file}; wait for it, or give another {FLAG}."))
        except OSError as error:
            raise ValueError(f"{file} cannot be written: {error.strerror}: {error.filename}; give another {FLAG}.") from error
        try:
            yield partial
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)

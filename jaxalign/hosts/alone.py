"""One process at a time: a lock that ends with its process."""

from collections.abc import Iterator
import contextlib
import fcntl
from pathlib import Path


@contextlib.contextmanager
def alone(file: str | Path, refusal: str) -> Iterator[None]:
    """Holds a lock on the file, which is made where it is not there, until the block ends or the process dies.

    Raises:
      ValueError: another process holds it; with this message.
    """
    with open(file, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(refusal) from None
        yield

"""The cells of an experiment one after the other, until somebody asks it to stop."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
Stop = Callable[[], bool]  # whether a stop was requested


class Stopped(Exception):
    """A stop was requested before the last cell; an experiment that keeps its cells goes on with the others when it is started again."""


def never() -> bool:
    """False: nobody asks."""
    return False


def until(stop: Stop, cells: Iterable[T]) -> Iterator[T]:
    """Yields the cells.

    Raises:
      Stopped: before the next cell, once a stop was requested.
    """
    for cell in cells:
        check(stop)
        yield cell


def check(stop: Stop) -> None:
    """Raises Stopped where a stop was requested."""
    if stop():
        raise Stopped

"""Notes for the user: what a checkpoint holds and nobody reads. Each is printed once per process."""

import functools
import sys


@functools.cache
def say_once(text: str) -> None:
    """Prints a line on standard error, the first time that it is said."""
    print(text, file=sys.stderr)


def some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

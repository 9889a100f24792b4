"""Progress of a long piece of work on standard error: a bar on a terminal, a line now and then elsewhere."""

from collections.abc import Callable, Iterator
import contextlib
import sys
import time

LINE_EVERY_S = 30.0  # in a log file


@contextlib.contextmanager
def bar(
    total: int, title: str, *, quiet: bool, unit: str = "rows", tokens: Callable[[], int] | None = None
) -> Iterator[Callable[[int], None]]:
    """Shows progress until the block ends; gives the function that advances it by a number of rows, or of another unit.

    Args:
      tokens: how many tokens there are so far; their rate since the beginning is shown. None: none are counted.
    """
    start = time.monotonic()

    def rate():
        return "" if tokens is None else f", {tokens() / max(time.monotonic() - start, 1e-9):,.0f} tokens/s"

    if not quiet and sys.stderr.isatty():
        with _bar(total, title, unit, rate) as advance:
            yield advance
        return
    done, told = 0, start

    def advance(rows):
        nonlocal done, told
        done += rows
        if not quiet and time.monotonic() - told > LINE_EVERY_S:
            told = time.monotonic()
            print(f"{title}: {done:,} of {total:,} {unit}{rate()}", file=sys.stderr, flush=True)

    yield advance


@contextlib.contextmanager
def _bar(total, title, unit, rate):
    from rich.console import Console  # slow to import, and not needed by workers
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counted = MofNCompleteColumn(), TextColumn("{task.fields[unit]}")
    columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total, unit=unit)
        yield lambda rows: progress.update(task, advance=rows, unit=f"{unit}{rate()}")

"""Progress of a long piece of work on standard error: a bar on a terminal, a line now and then elsewhere."""

from collections.abc import Callable, Iterator
import contextlib
import sys
import time

LINE_EVERY_S = 30.0  # in a log file


@contextlib.contextmanager
def bar(total: int, title: str, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Shows progress until the block ends; gives the function that advances it by a number of rows."""
    if not quiet and sys.stderr.isatty():
        with _bar(total, title) as advance:
            yield advance
        return
    done, told = 0, time.monotonic()

    def advance(rows):
        nonlocal done, told
        done += rows
        if not quiet and time.monotonic() - told > LINE_EVERY_S:
            told = time.monotonic()
            print(f"{title}: {done:,} of {total:,} rows", file=sys.stderr, flush=True)

    yield advance


@contextlib.contextmanager
def _bar(total, title):
    from rich.console import Console  # slow to import, and not needed by workers
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda rows: progress.update(task, advance=rows)

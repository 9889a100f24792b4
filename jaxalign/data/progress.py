"""A progress bar on standard error."""

from collections.abc import Callable, Iterator
import contextlib


@contextlib.contextmanager
def bar(total: int, title: str, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Shows a bar until the block ends; gives the function that advances it by a number of rows."""
    from rich.console import Console  # slow to import, and not needed by workers
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda rows: progress.update(task, advance=rows)

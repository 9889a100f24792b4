"""How often a run has started from the same checkpoint, so that what hangs after it again and again is not started for ever."""

import contextlib
import itertools
from pathlib import Path

from jaxalign.hosts import watch
from jaxalign.training import runs

FILE = ".starts"  # in a run's folder: a line with its step for every start
MOST = 4  # starts from one checkpoint; a lost host or a slow disk seldom comes so often before the next one


def futile(workdir: Path, step: int, *, name: str) -> str:
    """Counts a start from a step; why launchers shall not follow it with another, as a sentence, or "" for the first MOST - 1 from there.

    All processes call it once for each run, under its `name`, and get the same answer.
    """
    many = runs.is_first() and _count(workdir / FILE, step) >= MOST
    if not watch.any_of(f"question whether {name} starts in vain", many):
        return ""
    return (
        f"The last {MOST} starts or more were all from step {step} and none has saved a newer checkpoint, so launchers do not start again: "
        "look for what happens in the steps after it, or save more often (train.save_every_steps). The same command continues."
    )


def _count(file, step) -> int:
    """How many of the last starts in a row were from this step, with the one that is added now."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        lines = file.read_text(encoding="utf-8").split()
    with open(file, "a", encoding="utf-8") as opened:
        opened.write(f"{step}\n")
    return 1 + len(list(itertools.takewhile(str(step).__eq__, reversed(lines))))

"""Experiments small enough for exact answers (a map, a tree, a bandit, 64 texts), `gold`, whose rewards are known, and `front`, which reads
other stages.

The file name is the registry. Each file holds `run(workdir, stop, **options) -> results`, which trains with the objectives, reference rules
and the step of this package, on a forward of its own (`front` trains nothing), and writes table.md, results.json and plot.png into workdir.
Its keyword arguments are its section of the config: `experiment=dict(name="frozen_lake", seeds=10)`. `stop()` says whether somebody asked
the experiment to stop, which it does between two cells (`parts.until`).
"""

from collections.abc import Callable
import importlib
from pathlib import Path
from typing import Any

from jaxalign.experiments.parts.until import Stopped


class Experiment:
    """A stage that is an experiment: its name and its options."""

    def __init__(self, name: str, **options: Any):
        self.name, self.options = name, options

    def run(self, workdir: Path, stop) -> bool:
        """Runs the experiment and prints its table, unless its results are there already; False if `stop` asked for it before the end."""
        if (workdir / "results.json").exists():
            print(f"{self.name}: done before, see {workdir}")
            return True
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            named(self.name)(workdir, stop.requested, **self.options)
        except Stopped:
            print(f"{self.name}: stopped before its end; started again with the same --workdir, it measures what it has not kept there")
            return False
        print((workdir / "table.md").read_text())
        return True


def named(name: str) -> Callable:
    """The function `run` of jaxalign/experiments/NAME.py.

    Raises:
      ValueError: no such experiment; lists those there are.
    """
    if name not in names():
        raise ValueError(f"experiment.name={name!r} is no experiment of jaxalign/experiments; there are {', '.join(names())}.")
    return importlib.import_module(f"jaxalign.experiments.{name}").run


def names() -> list[str]:
    """Names of all experiments."""
    files = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    return [name for name in files if name != "__init__"]

"""Experiments small enough for exact answers (a map, a tree, a bandit, 64 texts), `gold`, whose rewards are known, and `front`, which reads
other stages.

The file name is the registry. Each file holds `run(workdir, stop, **options) -> results`, which trains with the objectives, reference rules
and the step of this package, on a forward of its own (`front` trains nothing), and writes table.md, results.json and plot.png into workdir.
Its keyword arguments are its section of the config: `experiment=dict(name="frozen_lake", seeds=10)`. `stop()` says whether somebody asked
the experiment to stop, which it does between two cells (`parts.until`). The options of what is finished stand in options.json: with
other ones it is refused, unless the file says KEEPS_PARTS = True, as it keeps what it measured and goes on with that.
"""

from collections.abc import Callable
import importlib
import json
from pathlib import Path
import sys
from typing import Any

from jaxalign.experiments.parts.results import keep
from jaxalign.experiments.parts.until import Stopped

OPTIONS = "options.json"  # of the experiment whose results are in the folder


class Experiment:
    """A stage that is an experiment: its name and its options."""

    def __init__(self, name: str, **options: Any):
        self.name, self.options = name, options

    def run(self, workdir: Path, stop) -> bool:
        """Runs the experiment and prints its table, unless its results are there already; False if `stop` asked for it before the end.

        Raises:
          ValueError: there are results with other options, and the experiment keeps no parts with which it could go on.
        """
        file, asked, run = workdir / OPTIONS, json.loads(json.dumps(self.options)), named(self.name)
        if (workdir / "results.json").exists():
            before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else asked
            changed = [f"{key}: {before.get(key)!r} -> {asked.get(key)!r}" for key in before | asked if before.get(key) != asked.get(key)]
            if not changed:
                print(f"{self.name}: done before, see {workdir}")
                return True
            if not getattr(sys.modules[run.__module__], "KEEPS_PARTS", False):
                raise ValueError(
                    f"{workdir} holds {self.name} with other options ({'; '.join(changed)}); choose a new --workdir, or go back to those."
                )
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            run(workdir, stop.requested, **self.options)
        except Stopped:
            print(f"{self.name}: stopped before its end; started again with the same --workdir, it measures what it has not kept there")
            return False
        keep(file, asked)
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

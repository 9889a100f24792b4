"""One file per loss; the file name is the registry.

An objective is a function of its file's name, `(policy, reference, batch, *, hyper-parameters) -> Terms`, beside a tuple REQUIRES of what
it reads: "paired" or "unpaired" groups, "reference". Its keyword arguments are its section of the config.
"""

import importlib
from pathlib import Path


def named(name: str):
    """The objective function of jaxalign/objectives/NAME.py and its module.

    Raises:
      ValueError: no such file; lists those there are.
    """
    if name not in names():
        raise ValueError(f"objective.name={name!r} is no file of jaxalign/objectives; there are {', '.join(names())}.")
    module = importlib.import_module(f"jaxalign.objectives.{name}")
    return getattr(module, name), module


def names() -> list[str]:
    """Names of all objectives: the files of jaxalign/objectives."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem != "__init__")

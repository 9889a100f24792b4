"""The keyword-only arguments of a function are its options in a configuration."""

import inspect
import re
from typing import Any


class _Required:
    """The default of an option that has none."""

    def __repr__(self) -> str:
        return "(required)"


REQUIRED: Any = _Required()


def hparams_of(function) -> dict[str, Any]:
    """Keyword-only arguments of a function and their defaults (REQUIRED where there is none): its section of the config."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: REQUIRED if p.default is p.empty else p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_beta(beta: float) -> None:
    """Raises ValueError where an objective's beta is not above 0."""
    if not beta > 0:
        raise ValueError(f"objective.beta={beta} is not above 0; it is the strength of the pull to the reference, often 0.01 to 0.5.")


def meanings_of(function) -> dict[str, str]:
    """Argument -> its meaning, as the "Args:" block of the function's docstring has it."""
    block = re.search(r"^Args:\n((?:  .*(?:\n|$)|\n)*)", inspect.getdoc(function) or "", re.MULTILINE)
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in block[1].splitlines() if block else ():
        if start := re.fullmatch(r"  (\w+(?:, \w+)*): (.*)", line):
            names = start[1].split(", ")
            meanings |= dict.fromkeys(names, start[2])
        elif line.startswith("    "):
            meanings |= {name: f"{meanings[name]} {line.strip()}" for name in names}
    return meanings

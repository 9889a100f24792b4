"""Rewards and judges as a command line names them: a text, or a dict as Python writes it; and a name for each of several rewards."""

import ast
from collections.abc import Mapping, Sequence
import itertools
from pathlib import Path
from typing import Any

Spec = str | dict[str, Any]
NAMING = {"python": "function", "model": "model", "judge": "model"}  # kind of reward -> the option of its dict that names it


def of_flag(text: str) -> Spec:
    """The spec that a flag has.

    Raises:
      ValueError: it begins like a dict and is none.
    """
    if not text.lstrip().startswith("{"):
        return text
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"{text!r} is no dict as Python writes it, like {{'kind': 'length', 'unit': 'words'}}.") from error


def by_name(specs: Sequence[Spec]) -> dict[str, Spec]:
    """Name -> spec of rewards: the name is that of the function, of the model's folder, or of the rule."""
    named: dict[str, Spec] = {}
    for spec in specs:
        kind, _, rest = (spec if isinstance(spec, str) else _text(spec)).partition(":")
        function = rest if kind.endswith(".py") else rest.rpartition(":")[2] if kind == "python" else None
        name = kind if kind == "regex" or not rest else function or Path(rest.partition("@")[0]).name or rest
        free = (one for number in itertools.count(1) if (one := name if number == 1 else f"{name}-{number}") not in named)
        named[next(free)] = spec
    return named


def _text(spec: Mapping) -> str:
    kind = str(spec.get("kind", "reward"))
    return f"{kind}:{spec.get(NAMING.get(kind), '')}"

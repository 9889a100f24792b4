"""The keyword-only arguments of a function are its options in a configuration."""

import inspect
from typing import Any

REQUIRED: Any = object()


def hparams_of(function) -> dict[str, Any]:
    """Keyword-only arguments of a function and their defaults (REQUIRED where there is none): its section of the config."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: REQUIRED if p.default is p.empty else p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

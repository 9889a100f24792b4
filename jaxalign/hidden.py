"""Tokens, keys and passwords: where a value holds one, and texts without them, for messages, logs and records."""

from collections.abc import Iterator, Mapping
import os
import re
from typing import Any

LOOKS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|AKIA[0-9A-Z]{16}"
    r"|AIza[\w-]{30,}|ya29\.[\w.-]{20,}|xox[abeprs]-[\w-]{20,})"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # USER:PASSWORD of an address
)
NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_?KEY|CONNECTION_?STRING)$")  # of variables that hold one
KEYS = re.compile(r"^(?!JAX_|XLA_).*_KEY$")  # of variables that hold one, or the name of a column or the like, which has no digits
SHORTEST = 12  # of the value of such a variable: a shorter one may be a word
INSTEAD = "***"


def without(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text with INSTEAD in the place of all that looks like a token and of what the environment's variables for such things hold."""
    held = [value for name, value in environ.items() if len(value) >= SHORTEST and _is_secret(name.upper(), value)]
    for value in sorted(held, key=len, reverse=True):
        text = text.replace(value, INSTEAD)
    return LOOKS.sub(INSTEAD, text)


def keys_with(values: Any, prefix: str = "") -> Iterator[str]:
    """The keys, like "data.train.path", whose text looks like a token or holds a password."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from keys_with(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from keys_with(value, prefix)
    elif isinstance(values, str) and LOOKS.search(values):
        yield prefix


def _is_secret(name: str, value: str) -> bool:
    return bool(NAMES.search(name) or (KEYS.search(name) and re.search(r"\d", value)))

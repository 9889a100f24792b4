"""Settings in words: what people read of how answers were drawn and judged, which files of runs hold as mappings."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Setting(NamedTuple):
    """One setting."""

    key: str  # without the keys below it
    words: str  # "KEY VALUE" or "KEY.KEY VALUE"


def parts(section: Mapping[str, Any]) -> list[Setting]:
    """The settings of a section of a configuration, and those of the mappings in it; a list reads as the tuple that JSON made it of."""
    return [Setting(key, words) for key, value in section.items() for words in _lines(key, value)]


def text(section: Mapping[str, Any] | str) -> str:
    """All settings of a section, separated by commas; what is a text already stays as it is."""
    return ", ".join(one.words for one in parts(section)) if isinstance(section, Mapping) else str(section)


def _lines(name, value) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{name} {_as_written(value)}"
        return
    for key, below in value.items():
        yield from _lines(f"{name}.{key}", below)


def _as_written(value):
    """A value with tuples, as configurations write them, in place of lists."""
    if isinstance(value, Mapping):
        return {key: _as_written(one) for key, one in value.items()}
    return tuple(map(_as_written, value)) if isinstance(value, list | tuple) else value

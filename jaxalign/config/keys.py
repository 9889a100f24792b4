"""Every key of a configuration, for a reader: its type, default and meaning; options of functions too, from their signatures.

    python -m jaxalign.config.keys > configs/KEYS.md
"""

from collections.abc import Iterator, Mapping
import inspect
import sys
import textwrap
from typing import Any, NamedTuple, get_args

from jaxalign.config import functions
from jaxalign.config.schema import COLUMN, DURATIONS, HELP_OF_DURATIONS, SCHEMA, SECTIONS, SOURCE, Field, units
from jaxalign.hparams import hparams_of, meanings_of
from jaxalign.suggest import meant

NESTED = {"data.train": SOURCE, "data.computed.NAME": COLUMN}  # sections below a key of data
WIDTH = 120  # of a line on a terminal


class Key(NamedTuple):
    """One key as a reader sees it."""

    name: str
    kind: str
    default: str
    meaning: str


def sections() -> list[str]:
    """Names that `rows` takes: the sections, those below them, and SECTION.NAME for every function that a section names."""
    named = [f"{section}.{name}" for section in functions.KEYS for name in functions.table(section)]
    return [*SECTIONS, *NESTED, *named, "experiment", *(f"experiment.{name}" for name in _experiments())]


def rows(section: str) -> list[Key]:
    """The keys of a section.

    Raises:
      ValueError: there is no such section.
    """
    head, _, name = section.partition(".")
    if section == "experiment":
        return [Key("name", " | ".join(_experiments()), "(required)", SECTIONS_OF_FUNCTIONS[section])]
    if head == "experiment" and name in _experiments():
        return _options(_experiments()[name], hparams_of(_experiments()[name]))
    if head in functions.KEYS and name in functions.table(head):
        return _options(functions.function(head, name), functions.accepted(head, name))
    nested = NESTED.get("data.train" if section == "data.eval" else section)  # which have the same keys
    schema = nested or ({"seed": SCHEMA["seed"]} if section == "seed" else SCHEMA.get(section))
    if schema is None:
        raise ValueError(f"--help-config {section}: no such section{meant(section, sections())}; there are {', '.join(SECTIONS)}.")
    return [*(_key(name, field) for name, field in schema.items() if name != "*"), *_durations(section)]


def text(section: str = "") -> str:
    """The keys of a section, or the list of sections, for a terminal."""
    if not section:
        lines = [f"  {name:<22} {about}" for name, about in {**SECTIONS, **SECTIONS_OF_FUNCTIONS}.items()]
        return "\n".join(["Sections of a configuration; --help-config SECTION shows the keys of one:", *lines])
    lines = [f"{section}: {SECTIONS.get(section, '')}".rstrip(": ")]
    for key in rows(section):
        lines.append(f"  {key.name}: {key.kind}; default {key.default}")
        lines += textwrap.wrap(key.meaning, WIDTH, initial_indent="      ", subsequent_indent="      ")
    if section in functions.KEYS:
        lines.append(f"Options of each: --help-config {section}.NAME, where NAME is one of {', '.join(functions.table(section))}.")
    lines += [f"Keys below it: --help-config {name}" for name in NESTED if name.startswith(f"{section}.")]
    return "\n".join(lines)


def markdown() -> str:
    """The table of all keys."""
    about = "Written by `python -m jaxalign.config.keys`; `--help-config SECTION` of every command that takes a config prints the same."
    parts = ["# Keys of a configuration", "", about, ""]
    for section in sections():
        if keys := rows(section):
            parts += [f"## {section}", "", *([f"{SECTIONS[section]}.", ""] if section in SECTIONS else [])]
            parts += ["| key | type | default | meaning |", "|---|---|---|---|", *map(_line, keys), ""]
    return "\n".join(parts)


def _line(key: Key) -> str:
    cells = (f"`{key.name}`", key.kind, f"`{key.default}`", key.meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _key(name: str, field: Field) -> Key:
    types = " or ".join("None" if kind is type(None) else kind.__name__ for kind in field.types)
    choices = " | ".join(str(choice) for choice in field.choices)
    least = f" >= {field.least}" if field.least is not None else ""
    return Key(name, choices or f"{types}{least}", repr(field.default), field.help)


def _durations(section: str) -> Iterator[Key]:
    for name, default in DURATIONS.get(section, {}).items():
        shown = "(required)" if default is None else f"{name}_{default[0]}={default[1]}" if default else "None"
        yield Key(f"{name}_[{'|'.join(units(name))}]", "number >= 0", shown, HELP_OF_DURATIONS[f"{section}.{name}"])


def _options(function, accepted: Mapping[str, Any]) -> list[Key]:
    meanings, parameters = meanings_of(function), inspect.signature(function).parameters
    return [Key(name, _type(parameters[name].annotation), repr(default), meanings.get(name, "")) for name, default in accepted.items()]


def _type(annotation) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def _experiments() -> dict:
    from jaxalign import experiments

    return {name: experiments.named(name) for name in experiments.names()}


SECTIONS_OF_FUNCTIONS = {"experiment": "instead of all other sections: one of jaxalign/experiments and its options"}


if __name__ == "__main__":
    sys.stdout.write(markdown())

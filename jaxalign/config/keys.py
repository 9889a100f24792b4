"""Every key of a configuration, for a reader: its type, default and meaning; options of functions too, from their signatures.

    python -m jaxalign.config.keys > configs/KEYS.md
"""

from collections.abc import Iterator, Mapping
import inspect
import sys
import textwrap
from typing import Any, NamedTuple, get_args

from jaxalign.config import functions
from jaxalign.config.lora import LORA
from jaxalign.config.schema import COLUMN, DURATIONS, HELP_OF_DURATIONS, SCHEMA, SECTIONS, SOURCE, Field, units
from jaxalign.config.speech import GENERATE, ROLLOUT
from jaxalign.hparams import REQUIRED, hparams_of, meanings_of
from jaxalign.suggest import meant

NESTED = {  # sections below a key
    "model.lora": LORA,
    "data.train": SOURCE,
    "data.computed.NAME": COLUMN,
    "data.rollout": ROLLOUT,
    "eval.generate": GENERATE,
}
OF_FEEDBACK = "data.rollout."  # what stands before the name of a feedback
BELOW = {
    "model.lora": "low-rank adapters, which are trained in the place of the model's own weights",
    "data.train": "a source of rows; data.train may be a tuple of them",
    "data.eval": "a source of rows that are held out; data.eval may be a dict of them by name",
    "data.computed.NAME": "a column that a model computes",
    "data.rollout": "batches of what the policy says to prompts; beside these keys the options of its feedback",
    "eval.generate": "answers to fixed prompts, judged at every evaluation",
}
STAGES = {  # of a configuration of several
    "stages": Field((tuple,), REQUIRED, "names of the stages, which run in this order"),
    "NAME": Field(
        (dict,),
        REQUIRED,
        "under each name a whole configuration: all other sections, or an experiment; model.checkpoint='stage:EARLIER' starts from what "
        "an earlier stage leaves, and --config.NAME.KEY=VALUE overrides a key",
    ),
}
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
    named += [f"{OF_FEEDBACK}{name}" for name in _feedback()]
    return [*_about(), *NESTED, *named, *(f"experiment.{name}" for name in _experiments())]


def rows(section: str) -> list[Key]:
    """The keys of a section, or the one key that SECTION.KEY names.

    Raises:
      ValueError: there is no such section.
    """
    known = _rows(section)
    if known is not None:
        return known
    parent, _, key = section.rpartition(".")
    known = [row for row in _rows(parent) or () if key in (row.name, *_with_units(row.name))]
    if not known:
        raise ValueError(f"--help-config {section}: no such section{meant(section, sections())}; there are {', '.join(_about())}.")
    return known


def _rows(section):
    head, _, name = section.partition(".")
    if section == "experiment":
        return [Key("name", " | ".join(_experiments()), "(required)", "a file of jaxalign/experiments")]
    if head == "experiment" and name in _experiments():
        return _options(_experiments()[name], hparams_of(_experiments()[name]))
    if head in functions.KEYS and name in functions.table(head):
        return _options(functions.function(head, name), functions.accepted(head, name))
    if section.startswith(OF_FEEDBACK) and section.removeprefix(OF_FEEDBACK) in _feedback():
        kind = _feedback()[section.removeprefix(OF_FEEDBACK)]
        return [row for one in filter(None, (kind.judge, kind.compute)) for row in _options(one, hparams_of(one))]
    nested = NESTED.get("data.train" if section == "data.eval" else section)  # which have the same keys
    schema = nested or {"seed": {"seed": SCHEMA["seed"]}, "stages": STAGES}.get(section, SCHEMA.get(section))
    return None if schema is None else [*(_key(name, field) for name, field in schema.items() if name != "*"), *_durations(section)]


def _with_units(name):
    """Every name of a duration, which has one row: `total_steps` of `total_[steps|epochs]`."""
    base, _, several = name.rstrip("]").partition("_[")
    return [f"{base}_{unit}" for unit in several.split("|")]


def text(section: str = "") -> str:
    """The keys of a section, or the list of sections, for a terminal."""
    if not section:
        lines = [f"  {name:<22} {about}" for name, about in _about().items()]
        return "\n".join(["Sections of a configuration; --help-config SECTION shows the keys of one:", *lines])
    lines = [f"{section}: {(_about() | BELOW).get(section, '')}".rstrip(": ")]
    for key in rows(section):
        lines.append(f"  {key.name}: {key.kind}; default {key.default}")
        lines += textwrap.wrap(key.meaning, WIDTH, initial_indent="      ", subsequent_indent="      ")
    below = [name for name in sections() if name.rpartition(".")[0] == section and name not in NESTED]
    if names := [name.rpartition(".")[2] for name in below if _rows(name)]:
        lines.append(f"Options of each: --help-config {section}.NAME, where NAME is one of {', '.join(names)}.")
    lines += [f"Keys below it: --help-config {name}" for name in NESTED if name.startswith(f"{section}.")]
    return "\n".join(lines)


def markdown() -> str:
    """The table of all keys."""
    about = "Written by `python -m jaxalign.config.keys`; `--help-config SECTION` of every command that takes a config prints the same."
    parts = ["# Keys of a configuration", "", about, ""]
    for section in sections():
        if keys := rows(section):
            parts += [f"## {section}", "", *([f"{_about()[section]}.", ""] if section in _about() else [])]
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


def _feedback() -> Mapping:
    from jaxalign.rollout.feedback import FEEDBACK

    return FEEDBACK


def _about() -> dict[str, str]:
    """Section -> what it is about."""
    instead = {"stages": "several runs one after the other", "experiment": "one of jaxalign/experiments and its options"}
    return SECTIONS | {section: f"instead of all other sections: {about}" for section, about in instead.items()}


if __name__ == "__main__":
    sys.stdout.write(markdown())

"""Configurations: Python files that return an `ml_collections.ConfigDict`, overridden on the command line, checked whole.

`--config configs/NAME.py` (or `NAME.py:ARGUMENT`, handed to `get_config`) is read, `--config.a.b=value` overrides any key, and
`validate.resolve` fills in the defaults and reports every problem at once, before anything is loaded.

A config with `stages = ("first", "second")` holds one whole configuration under each of these names; they run in this order.
"""

import argparse
import ast
import importlib.util
import inspect
from pathlib import Path
import re
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxalign.schema import DURATIONS, SCHEMA, units
from jaxalign.validate import ConfigError, raise_problems, resolve

STAGE = "stage:"  # what stands before the name of an earlier stage where a checkpoint is named


class Run(NamedTuple):
    """What the command line asked for."""

    name: str  # of the config file, without .py; with "_ARGUMENT" where it was given one
    stages: dict[str, ConfigDict]  # stage name -> resolved configuration; one stage called "" where the config has none
    options: argparse.Namespace  # the other flags of the entry point


def from_command_line(argv: list[str] | None, description: str, flags=()) -> Run:
    """Parses `--config FILE --config.a.b=value ...` and the entry point's own flags.

    Args:
      argv: arguments without the program's name; None reads sys.argv.
      description: first line of --help.
      flags: (name, dict of argparse options) of the entry point.

    Raises:
      ConfigError: everything that is wrong with the configuration.
    """
    parser = argparse.ArgumentParser(description=description, epilog="Any key of the config: --config.optimizer.learning_rate=1e-6")
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARGUMENT]", help="Python file with get_config()")
    for name, options in flags:
        parser.add_argument(name, **options)
    options, rest = parser.parse_known_args(argv)
    unknown = [argument for argument in rest if not argument.startswith("--config.")]
    if unknown:
        parser.error(f"unknown arguments {unknown}; overrides are written --config.KEY=VALUE")
    config = load_file(options.config)
    override(config, rest)
    path, _, argument = options.config.partition(":")
    name = Path(path).stem + (f"_{re.sub(r'[^A-Za-z0-9.=_-]+', '-', argument)}" if argument else "")
    return Run(name, resolve_stages(config), options)


def load_file(reference: str) -> ConfigDict:
    """The ConfigDict that FILE.py's get_config() returns; "FILE.py:TEXT" calls get_config("TEXT").

    Raises:
      ConfigError: no such file, no get_config in it, one that takes no argument or returns no config, or a ValueError, OSError or
        RuntimeError in the file. Any other error of the file is let through with a note that names it.
    """
    path, _, argument = reference.partition(":")
    if not Path(path).is_file():
        near = sorted(str(p) for p in Path(path).parent.glob("*.py")) if Path(path).parent.is_dir() else []
        there = f"configs there: {', '.join(near)}." if near else "give the path of a config file."
        raise ConfigError(f"--config {path}: no such file; {there}")
    try:
        config = _run_file(path, [argument] if argument else [])
    except ConfigError:
        raise
    except (ValueError, OSError, RuntimeError) as error:  # which the entry points print without a traceback
        raise ConfigError(f"--config {path}: {type(error).__name__}: {error}") from error
    except Exception as error:
        error.add_note(f"(in --config {path})")
        raise
    if isinstance(config, dict):
        config = ConfigDict(config)
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"--config {path}: get_config() returns {type(config).__name__}; it must return an ml_collections.ConfigDict.")
    return config.unlock()


def _run_file(path, arguments):
    spec = importlib.util.spec_from_file_location("jaxalign_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if "get_config" not in vars(module):
        raise ConfigError(f"--config {path}: the file defines no get_config(); it must return an ml_collections.ConfigDict.")
    try:
        inspect.signature(module.get_config).bind(*arguments)
    except TypeError as error:
        way = f"give --config {path} without :{arguments[0]}" if arguments else f"give --config {path}:ARGUMENT"
        raise ConfigError(f"--config {path}: get_config: {error}; {way}.") from error
    return module.get_config(*arguments)


def override(config: ConfigDict, arguments: list[str]) -> None:
    """Applies `--config.a.b=value` in place. Values are Python literals; anything else is a string."""
    for written in arguments:
        key, equals, text = written.removeprefix("--config.").partition("=")
        if not equals:
            raise ConfigError(f"--config.{key} has no value; write --config.{key}=VALUE.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = {"true": True, "false": False}.get(text.lower(), text)
        *parents, leaf = key.split(".")
        node = config
        for parent in parents:
            if not isinstance(node.get(parent), ConfigDict):
                with node.ignore_type():
                    node[parent] = ConfigDict()
            node = node[parent]
        for name in DURATIONS.get(parents[-1] if parents else "", ()):  # total_steps on the command line replaces total_epochs of the file
            if leaf in (siblings := [f"{name}_{unit}" for unit in units(name)]):
                for sibling in set(siblings) & set(node.keys()):
                    del node[sibling]
        with node.ignore_type():
            node[leaf] = value


def place_stages(cfg: ConfigDict, workdir: Path) -> None:
    """Replaces every "stage:NAME" of a stage's configuration by what that stage leaves in the run's folder: its export, or its folder."""
    if (cfg.model.checkpoint or "").startswith(STAGE):
        cfg.model.checkpoint = str(workdir / cfg.model.checkpoint.removeprefix(STAGE) / "export")
    for column in cfg.data.columns.values():
        for key in ("model", "reference"):
            if (column[key] or "").startswith(STAGE):
                left = workdir / column[key].removeprefix(STAGE)
                column[key] = str(left if column.kind == "advantage" else left / "export")


def exported_stages(stages: dict[str, ConfigDict]) -> set[str]:
    """Names of the stages whose export a later stage reads."""
    sources = [cfg.model.checkpoint for cfg in stages.values() if "model" in cfg]
    columns = [column for cfg in stages.values() if "data" in cfg for column in cfg.data.columns.values() if column.kind != "advantage"]
    sources += [column[key] for column in columns for key in ("model", "reference")]
    return {source.removeprefix(STAGE) for source in sources if (source or "").startswith(STAGE)}


def _earlier_stages(name, cfg, earlier):
    """Problems of the stages that a stage names."""
    named = {"model.checkpoint": cfg.model.checkpoint}
    named |= {f"data.columns.{column}.{key}": spec[key] for column, spec in cfg.data.columns.items() for key in ("model", "reference")}
    for key, source in named.items():
        if (source or "").startswith(STAGE) and source.removeprefix(STAGE) not in earlier:
            where, there = f"{name}.{key}" if name else key, ", ".join(earlier) or "none"
            yield f"{where}={source!r} does not name an earlier stage; earlier ones: {there}."


def resolve_stages(config: ConfigDict) -> dict[str, ConfigDict]:
    """Stage name -> resolved configuration. Problems of all stages are reported together."""
    if "stages" not in config:
        whole = resolve(config)
        raise_problems([] if "experiment" in whole else list(_earlier_stages("", whole, ())))
        return {"": whole}
    plain, problems, resolved = config.to_dict(), [], {}
    names = plain.pop("stages")
    for key in plain:
        if key not in names:
            way = f"did you mean {', '.join(f'{name}.{key}' for name in names)}?" if key in SCHEMA else "it is no stage of these."
            problems.append(f"{key}: unknown key beside stages={tuple(names)}, each of which is a whole configuration; {way}")
    for name in names:
        if name not in plain:
            problems.append(f"stages: {name!r} is named but not given; add config.{name} = ConfigDict(...).")
            continue
        try:
            resolved[name] = resolve(ConfigDict(plain[name]))
        except ConfigError as error:
            problems += [f"{name}.{line}" for line in str(error).splitlines()[1:]]
    raise_problems(problems)
    for i, name in enumerate(names):
        if "experiment" not in resolved[name]:
            problems += _earlier_stages(name, resolved[name], [n for n in names[:i] if "experiment" not in resolved[n]])
    raise_problems(problems)
    return resolved

"""Configurations: Python files that return an `ml_collections.ConfigDict`, overridden on the command line, checked whole.

`--config configs/NAME.py` (or `NAME.py:ARGUMENT`, handed to `get_config`) is read, `--config.a.b=value` overrides any key, and
`resolve.resolve` fills in the defaults and reports every problem at once, before anything is loaded.

A config with `stages = ("first", "second")` holds one whole configuration under each of these names; they run in this order.
"""

import ast
import importlib.util
import inspect
from pathlib import Path

from ml_collections import ConfigDict

from jaxalign.config.resolve import ConfigError
from jaxalign.config.schema import DURATIONS, units


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

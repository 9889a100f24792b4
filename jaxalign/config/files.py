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
from jaxalign.paths import line_of, message_of, nearby, resolve


def load_file(reference: str) -> ConfigDict:
    """The ConfigDict that FILE.py's get_config() returns; "FILE.py:TEXT" calls get_config("TEXT").

    Raises:
      ConfigError: there is no such file, it is no Python, it defines no get_config, get_config does not take the argument or returns no
        config, or any error inside the file; with the file and, where there is one, the line.
    """
    path, _, argument = reference.partition(":")
    path = str(resolve(path))
    if Path(path).is_dir():
        there = ", ".join(sorted(file.name for file in Path(path).glob("*.py"))) or "none"
        raise ConfigError(f"--config {path}: it is a folder; name one of its Python files: {there}.")
    if not Path(path).is_file():
        likely = [file for file in (Path(f"{path}.py"), Path("configs", f"{Path(path).stem}.py")) if file.is_file()]
        raise ConfigError(f"--config {path}: no such file; {f'did you mean {likely[0]}?' if likely else nearby(Path(path))}")
    if Path(path).suffix != ".py":
        raise ConfigError(f"--config {path}: a config is a Python file; its name must end in .py.")
    try:
        config = _run_file(path, [argument] if argument else [])
        if isinstance(config, dict | ConfigDict):
            plain = config.to_dict() if isinstance(config, ConfigDict) else config
            _check_keys(plain, f"--config {path}")
            return ConfigDict(plain).unlock()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"--config {path}{line_of(error, path)}: {message_of(error)}") from error
    raise ConfigError(f"--config {path}: get_config() returns {type(config).__name__}; it must return an ml_collections.ConfigDict.")


def _check_keys(section, where):
    for key, value in section.items():
        if not isinstance(key, str):
            raise ConfigError(f"{where}: the key {key!r} is {type(key).__name__}; a key is text.")
        if isinstance(value, dict):
            _check_keys(value, f"{where}{'.' if ': ' in where else ': '}{key}")


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


def keys_of(arguments: list[str]) -> list[str]:
    """The keys that `--config.a.b=value` sets: "a.b"."""
    return [_parts(written)[0] for written in arguments]


def _parts(written):
    return written.removeprefix("--config.").partition("=")


def override(config: ConfigDict, arguments: list[str]) -> None:
    """Applies `--config.a.b=value` in place. Values are Python literals; anything else is a string.

    A duration replaces that of the file, whatever unit that has.

    Raises:
      ConfigError: an argument has no value, one duration has two units, or a key below a list is set.
    """
    seen: dict[str, str] = {}  # duration -> what was written of it
    for key, equals, text in map(_parts, arguments):
        if not equals:
            raise ConfigError(f"--config.{key} has no value; write --config.{key}=VALUE.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # what literal_eval raises of text that is no literal
            value = {"true": True, "false": False}.get(text.lower(), text)
        *parents, leaf = key.split(".")
        node = config
        for parent in parents:
            if isinstance(node.get(parent), list | tuple):
                whole = key[: key.index(parent) + len(parent)]
                raise ConfigError(f"--config.{key}: {whole} is a list; set --config.{whole} as a whole, or edit the file.")
            if not isinstance(node.get(parent), ConfigDict):
                with node.ignore_type():
                    node[parent] = ConfigDict()
            node = node[parent]
        for name in DURATIONS.get(parents[-1] if parents else "", ()):  # total_steps on the command line replaces total_epochs of the file
            if leaf in (siblings := [f"{name}_{unit}" for unit in units(name)]):
                duration = ".".join([*parents, name])
                if seen.setdefault(duration, leaf) != leaf:
                    other = ".".join([*parents, seen[duration]])
                    raise ConfigError(f"--config.{other} and --config.{key} are both given; keep one of them.")
                for sibling in set(siblings) & set(node.keys()):
                    del node[sibling]
        if leaf in node:
            del node[leaf]  # a ConfigDict would turn the value into the type of the one before
        try:
            node[leaf] = value
        except ValueError as error:
            raise ConfigError(f"--config.{key}={text}: {error}") from error

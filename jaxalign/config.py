"""Configurations: Python files that return an `ml_collections.ConfigDict`, overridden on the command line, checked whole.

`--config configs/NAME.py` (or `NAME.py:ARGUMENT`, handed to `get_config`) is read, `--config.a.b=value` overrides any key, and `resolve`
fills in the defaults of SCHEMA and reports every problem at once, before anything is loaded. Options of objectives, optimizers and reference
rules are the keyword arguments of the function that the config names.

A config with `stages = ("first", "second")` holds one whole configuration under each of these names; they run in this order.
"""

import argparse
import ast
import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxalign.schema import DURATIONS, REQUIRED, SCHEMA, SOURCE, UNITS, Field


class ConfigError(ValueError):
    """All problems of a configuration, one a line, each with the value, the rule and the way out."""


class Run(NamedTuple):
    """What the command line asked for."""

    name: str  # of the config file, without .py
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
    return Run(Path(options.config.partition(":")[0]).stem, resolve_stages(config), options)


def load_file(reference: str) -> ConfigDict:
    """The ConfigDict that FILE.py's get_config() returns; "FILE.py:TEXT" calls get_config("TEXT").

    Raises:
      ConfigError: no such file, or no get_config in it.
    """
    path, _, argument = reference.partition(":")
    if not Path(path).is_file():
        near = sorted(str(p) for p in Path(path).parent.glob("*.py")) if Path(path).parent.is_dir() else []
        raise ConfigError(f"--config {path}: no such file; " + (f"configs there: {', '.join(near)}." if near else "give the path of a config file."))
    spec = importlib.util.spec_from_file_location("jaxalign_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if "get_config" not in vars(module):
        raise ConfigError(f"--config {path}: the file defines no get_config(); it must return an ml_collections.ConfigDict.")
    config = module.get_config(argument) if argument else module.get_config()
    return config.unlock()


def override(config: ConfigDict, arguments: list[str]) -> None:
    """Applies `--config.a.b=value` (or `--config.a.b value`) in place. Values are Python literals; anything else is a string."""
    arguments = list(arguments)
    while arguments:
        key, equals, text = arguments.pop(0).removeprefix("--config.").partition("=")
        if not equals:
            if not arguments:
                raise ConfigError(f"--config.{key} has no value; write --config.{key}=VALUE.")
            text = arguments.pop(0)
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
        *parents, leaf = key.split(".")
        node = config
        for parent in parents:
            if not isinstance(node.get(parent), ConfigDict):
                with node.ignore_type():
                    node[parent] = ConfigDict()
            node = node[parent]
        with node.ignore_type():
            node[leaf] = value


def resolve_stages(config: ConfigDict) -> dict[str, ConfigDict]:
    """Stage name -> resolved configuration. Problems of all stages are reported together."""
    if "stages" not in config:
        return {"": resolve(config)}
    plain, problems, resolved = config.to_dict(), [], {}
    names = plain.pop("stages")
    for key in plain:
        if key not in names:
            problems.append(f"{key}: unknown key beside stages={tuple(names)}; every stage is a whole configuration under its own name.")
    for name in names:
        if name not in plain:
            problems.append(f"stages: {name!r} is named but not given; add config.{name} = ConfigDict(...).")
            continue
        try:
            resolved[name] = resolve(ConfigDict(plain[name]))
        except ConfigError as error:
            problems += [f"{name}.{line}" for line in str(error).splitlines()[1:]]
    _raise(problems)
    for i, name in enumerate(names):
        source = resolved[name].model.checkpoint or ""
        if source.startswith("stage:") and source.removeprefix("stage:") not in names[:i]:
            problems.append(f"{name}.model.checkpoint={source!r} does not name an earlier stage; earlier ones: {tuple(names[:i])}.")
    _raise(problems)
    return resolved


def resolve(config: ConfigDict) -> ConfigDict:
    """The configuration with every default filled in.

    Raises:
      ConfigError: unknown keys, missing keys, wrong types, impossible combinations; all of them, one a line.
    """
    problems: list[str] = []
    given = config.to_dict()
    resolved = _section(given, SCHEMA, "", problems)
    _check_sources(resolved, problems)
    _check_functions(resolved, given, problems)
    if not problems:
        _check_combinations(resolved, problems)
    _raise(problems)
    return ConfigDict(resolved)


def objective_named(name: str):
    """The objective function of jaxalign/objectives/NAME.py and its module.

    Raises:
      ConfigError: no such file; lists those there are.
    """
    names = objective_names()
    if name not in names:
        raise ConfigError(f"objective.name={name!r} is no file of jaxalign/objectives; there are {', '.join(names)}.")
    module = importlib.import_module(f"jaxalign.objectives.{name}")
    return getattr(module, name), module


def objective_names() -> list[str]:
    """Names of all objectives: the files of jaxalign/objectives."""
    return sorted(p.stem for p in (Path(__file__).parent / "objectives").glob("*.py") if p.stem != "__init__")


def hparams_of(function) -> dict[str, Any]:
    """Keyword-only arguments of a function and their defaults (REQUIRED where there is none): its section of the config."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: REQUIRED if p.default is p.empty else p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _raise(problems):
    if problems:
        raise ConfigError(f"the configuration has {len(problems)} problem{'s' * (len(problems) > 1)}:\n" + "\n".join(problems))


def _section(given, schema, prefix, problems):
    resolved = {}
    durations = {f"{name}_{unit}": name for name in DURATIONS.get(prefix.rstrip("."), ()) for unit in UNITS}
    open_ended = schema.get("*")
    for key, value in given.items():
        if key not in schema and key not in durations and not open_ended:
            accepted = sorted([k for k in schema if k != "*"] + [f"{name}_[{'|'.join(UNITS)}]" for name in set(durations.values())])
            problems.append(f"{prefix}{key}: unknown key; accepted here: {', '.join(accepted)}.")
        elif key in durations or (open_ended and key not in schema):
            resolved[key] = value
    for key, field in schema.items():
        if key == "*":
            continue
        if isinstance(field, dict):
            value = given.get(key, {})
            if not isinstance(value, dict):
                problems.append(f"{prefix}{key}={value!r} is not a section; set keys below it, like {prefix}{key}.{next(iter(field))}.")
                value = {}
            resolved[key] = _section(value, field, f"{prefix}{key}.", problems)
        else:
            resolved[key] = _value(given, key, field, prefix, problems)
    _check_durations(resolved, prefix, durations, problems)
    return resolved


def _value(given, key, field: Field, prefix, problems):
    if key not in given:
        if field.default is REQUIRED:
            problems.append(f"{prefix}{key} is missing: {field.help}.")
        return field.default
    value = given[key]
    if float in field.types and type(value) is int:
        value = float(value)
    if isinstance(value, list):
        value = tuple(value)
    # bool is an int to isinstance, and "True" rows are a mistake
    if not isinstance(value, field.types) or (isinstance(value, bool) and bool not in field.types):
        wanted = " or ".join("None" if t is type(None) else t.__name__ for t in field.types)
        problems.append(f"{prefix}{key}={value!r} is {type(value).__name__}, not {wanted}: {field.help}.")
    elif field.choices and value not in field.choices:
        problems.append(f"{prefix}{key}={value!r} is not one of {', '.join(map(repr, field.choices))}: {field.help}.")
    elif field.least is not None and value is not None and value < field.least:
        problems.append(f"{prefix}{key}={value!r} is less than {field.least}: {field.help}.")
    return value


def _check_durations(resolved, prefix, durations, problems):
    for name, default in DURATIONS.get(prefix.rstrip("."), {}).items():
        keys = [key for key, base in durations.items() if base == name and resolved.get(key) is not None]
        if len(keys) > 1:
            problems.append(f"{prefix}{name} is given {len(keys)} times ({', '.join(keys)}); keep one of them.")
        if not keys and default is None:
            problems.append(f"{prefix}{name} is missing; give one of {', '.join(f'{name}_{unit}' for unit in UNITS)}.")
        for key in keys:
            value = resolved[key]
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                problems.append(f"{prefix}{key}={value!r} is not a number >= 0.")
        if not keys and default is not None:
            resolved[f"{name}_{default[0]}"] = default[1]


def _check_sources(resolved, problems):
    data = resolved.get("data", {})
    for key in ("train", "eval"):
        value = data.get(key)
        sources = value if isinstance(value, tuple) else (value,)
        checked = []
        for i, source in enumerate(sources):
            name = f"data.{key}" + (f"[{i}]" if isinstance(value, tuple) else "")
            if source is None:
                continue
            if not isinstance(source, dict):
                problems.append(f"{name}={source!r} is not a source; write dict(path=...), dict(hf=...) or dict(tfds=...).")
                continue
            origins = [origin for origin in ("path", "hf", "tfds") if source.get(origin)]
            if len(origins) != 1:
                problems.append(f"{name} names {origins or 'no origin'}; give just one of path, hf, tfds.")
            checked.append(_section(source, SOURCE, f"{name}.", problems))
        if value is not None:
            data[key] = tuple(checked) if isinstance(value, tuple) else (checked or [None])[0]


def _check_functions(resolved, given, problems):
    """Fills the sections whose keys are the arguments of the function that they name."""
    optim, reference = importlib.import_module("jaxalign.optim"), importlib.import_module("jaxalign.reference")
    objective_name = resolved["objective"].get("name")
    try:
        objective, module = objective_named(objective_name)
    except ConfigError as error:
        problems.append(str(error))
        return
    if resolved["reference"]["rule"] is None:
        resolved["reference"]["rule"] = "frozen" if "reference" in module.REQUIRES else "none"
    for section, key, table in (
        ("objective", "name", {objective_name: objective}),
        ("optimizer", "name", optim.RULES),
        ("reference", "rule", reference.RULES),
    ):
        name = resolved[section][key]
        if name not in table:
            problems.append(f"{section}.{key}={name!r} is not one of {', '.join(table)}.")
            continue
        accepted = hparams_of(table[name])
        fixed = {k for k in SCHEMA[section] if k != "*"} | {f"{d}_{u}" for d in DURATIONS.get(section, {}) for u in UNITS}
        for option in given.get(section, {}):
            if option not in accepted and option not in fixed:
                problems.append(f"{section}.{option}: {name!r} has no such option; it takes {', '.join(accepted) or 'none'}.")
        for option, default in accepted.items():
            value = resolved[section].setdefault(option, default)
            if value is REQUIRED:
                problems.append(f"{section}.{option} is missing: {name!r} needs it.")
            elif default is not REQUIRED and default is not None:
                if isinstance(default, float) and type(value) is int:
                    value = resolved[section][option] = float(value)
                if type(value) is not type(default):
                    problems.append(f"{section}.{option}={value!r} is {type(value).__name__}, not {type(default).__name__}.")


def _check_combinations(resolved, problems):
    _, module = objective_named(resolved["objective"]["name"])
    model, data, batch, train = (resolved[key] for key in ("model", "data", "batch", "train"))
    if resolved["reference"]["rule"] == "none" and "reference" in module.REQUIRES:
        problems.append(f"reference.rule='none': objective {resolved['objective']['name']!r} needs a reference; leave the key out or use 'frozen'.")
    origins = [key for key in ("checkpoint", "preset", "config") if model[key] is not None]
    if len(origins) != 1:
        problems.append(f"model names {origins or 'no origin'}; give just one of model.checkpoint, model.preset, model.config.")
    if model["checkpoint"] is None and model["tokenizer"] is None:
        problems.append("model.tokenizer is missing: a model with random weights brings no tokenizer; name a tokenizer folder.")
    if batch["rows"] % batch["microbatches"]:
        problems.append(f"batch.rows={batch['rows']} does not split into batch.microbatches={batch['microbatches']}; choose a divisor of batch.rows.")
    for key in ("max_prompt_tokens", "max_response_tokens"):
        if data[key] is not None and data[key] >= data["row_tokens"]:
            problems.append(f"data.{key}={data[key]} leaves no room in data.row_tokens={data['row_tokens']}; make it smaller.")
    if data["eval"] is not None and data["eval_fraction"]:
        problems.append("data.eval and data.eval_fraction are both given; keep one of them.")
    if not 0 <= data["eval_fraction"] < 1:
        problems.append(f"data.eval_fraction={data['eval_fraction']} is not in [0, 1).")
    if [*resolved["mesh"].values()].count(-1) > 1:
        problems.append(f"mesh={resolved['mesh']}: only one axis may be -1 (what is left).")
    if train["keep_best"] and data["eval"] is None and not data["eval_fraction"]:
        problems.append(f"train.keep_best={train['keep_best']} needs an evaluation; set data.eval or data.eval_fraction.")
    if train["wandb"] and importlib.util.find_spec("wandb") is None:
        problems.append("train.wandb=True but the package wandb is not installed; pip install wandb, or leave train.wandb out.")
    hparams = {k: v for k, v in resolved["objective"].items() if k != "name"}
    check = vars(module).get("check")
    if check:
        try:
            check(**hparams)
        except ValueError as error:
            problems.append(f"objective: {error}")

"""The check of a whole configuration against the schema: every problem at once, each with the value, the rule and the way out.

Options of objectives, optimizers and reference rules are the keyword arguments of the function that the configuration names.
"""

import difflib

from ml_collections import ConfigDict

from jaxalign.config import functions, rules
from jaxalign.config.schema import COLUMN, DURATIONS, OPTIONS_OF_KIND, OTHER_NAMES, SCHEMA, SOURCE, Field, named_sets, units
from jaxalign.hparams import REQUIRED, hparams_of


class ConfigError(ValueError):
    """All problems of a configuration, one a line, each with the value, the rule and the way out."""


def resolve(config: ConfigDict) -> ConfigDict:
    """The configuration with every default filled in.

    Raises:
      ConfigError: unknown keys, missing keys, wrong types, impossible combinations; all of them, one a line.
    """
    problems: list[str] = []
    given = config.to_dict()
    if "experiment" in given:
        return _experiment(given)
    resolved = _section(given, SCHEMA, "", problems)
    _check_sources(resolved, problems)
    _check_columns(resolved, problems)
    problems += functions.fill_functions(resolved, given)
    problems += rules.check(resolved, quiet=bool(problems))
    raise_problems(problems)
    return ConfigDict(resolved)


def raise_problems(problems: list[str]) -> None:
    """Raises one ConfigError of all problems, if there are any."""
    if problems:
        raise ConfigError(f"the configuration has {len(problems)} problem{'s' * (len(problems) > 1)}:\n" + "\n".join(problems))


def _experiment(given):
    """A configuration of one of jaxalign/experiments: its name and its options."""
    from jaxalign import experiments

    section = dict(given.pop("experiment")) if isinstance(given["experiment"], dict) else {"name": given.pop("experiment")}
    problems = [f"{key}: unknown key beside experiment; an experiment has its own options only." for key in given]
    name = section.get("name")
    if name not in experiments.names():
        problems.append(f"experiment.name={name!r} is no file of jaxalign/experiments; there are {', '.join(experiments.names())}.")
        raise_problems(problems)
    accepted = hparams_of(experiments.named(name))
    for key in section.keys() - accepted.keys() - {"name"}:
        problems.append(f"experiment.{key}: {name!r} has no such option; it takes {', '.join(accepted)}.")
    missing = [key for key, default in accepted.items() if default is REQUIRED and key not in section]
    problems += [f"experiment.{key} is missing: {name!r} needs it." for key in missing]
    for key, default in accepted.items():
        value, free = section.get(key, default), default is REQUIRED or default is None
        value = section[key] = tuple(value) if isinstance(value, list) else value
        if not free and type(value) is not type(default) and not (type(value) is int and type(default) is float):
            problems.append(f"experiment.{key}={value!r} is {type(value).__name__}, not {type(default).__name__}.")
    raise_problems(problems)
    return ConfigDict({"experiment": {**accepted, **section}})


def _section(given, schema, prefix, problems):
    resolved = {}
    durations = {f"{name}_{unit}": name for name in DURATIONS.get(prefix.rstrip("."), ()) for unit in units(name)}
    open_ended = schema.get("*")
    for key, value in given.items():
        if key not in schema and key not in durations and not open_ended:
            accepted = sorted([k for k in schema if k != "*"] + [f"{name}_[{'|'.join(units(name))}]" for name in set(durations.values())])
            problems.append(_unknown(key, prefix, accepted, "SOURCE." if schema is SOURCE else prefix))
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


def _unknown(key, prefix, accepted, table_prefix):
    if other := OTHER_NAMES.get(f"{table_prefix}{key}"):
        return f"{prefix}{key} is called {prefix}{other.removeprefix(table_prefix)} here."
    close = difflib.get_close_matches(key, accepted, n=1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    return f"{prefix}{key}: unknown key{meant}; accepted here: {', '.join(accepted)}."


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
            problems.append(f"{prefix}{name} is missing; give one of {', '.join(f'{name}_{unit}' for unit in units(name))}.")
        for key in keys:
            value = resolved[key]
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                problems.append(f"{prefix}{key}={value!r} is not a number >= 0.")
        if not keys and default:
            resolved[f"{name}_{default[0]}"] = default[1]


def _check_sources(resolved, problems):
    data = resolved.get("data", {})
    train, held_out = data.get("train"), data.get("eval")
    if isinstance(train, tuple):
        data["train"] = tuple(_source(source, f"data.train[{i}]", problems) for i, source in enumerate(train))
    elif train is not None:
        data["train"] = _source(train, "data.train", problems)
    if isinstance(held_out, dict):
        checked = {
            name: _source(source, f"data.eval.{name}" if name else "data.eval", problems) for name, source in named_sets(held_out).items()
        }
        data["eval"] = checked.get("", checked)


def _source(source, name, problems):
    if not isinstance(source, dict):
        problems.append(f"{name}={source!r} is not a source; write dict(path=...), dict(hf=...) or dict(tfds=...).")
        return None
    origins = [origin for origin in ("path", "hf", "tfds") if source.get(origin)]
    if len(origins) != 1:
        problems.append(f"{name} names {origins or 'no origin'}; give just one of path, hf, tfds.")
    return _section(source, SOURCE, f"{name}.", problems)


def _check_columns(resolved, problems):
    columns = resolved.get("data", {}).get("computed")
    for name, given in columns.items() if isinstance(columns, dict) else ():
        where = f"data.computed.{name}"
        if not isinstance(given, dict):
            problems.append(f"{where}={given!r} is not a column; write {name}=dict(kind=..., model=...).")
            continue
        columns[name] = column = _section(given, COLUMN, f"{where}.", problems)
        idle = given.keys() & COLUMN.keys() - {"kind", "model", *OPTIONS_OF_KIND.get(column["kind"], COLUMN)}
        problems += [f"{where}.{key}={given[key]!r} has no effect on kind={column['kind']!r}; leave it out." for key in sorted(idle)]
        if column["kind"] == "implicit_reward" and column["reference"] is None:
            problems.append(f"{where}.reference is missing: an implicit reward is beta times the log-ratio of model to reference.")

"""The sections of a configuration against the schema: unknown and missing keys, types, choices, ranges.

One mistake is one problem: a key that is only misspelt is not reported as missing too.
"""

from collections.abc import Mapping
import math
from typing import Any

from jaxalign.config.lora import LORA
from jaxalign.config.other_names import called_here, hint
from jaxalign.config.schema import COLUMN, DURATIONS, LARGEST, SCHEMA, SOURCE, Field, named_sets, units
from jaxalign.config.speech import GENERATE, ROLLOUT
from jaxalign.hparams import REQUIRED
from jaxalign.suggest import closest, meant

WHOLE = ("steps", "examples")  # units of durations that have no parts
LONGEST = 2**31  # steps are counted in 32 bits
Problems = dict[str, list[str]]  # by section; what stands beside the sections is under ""


def check(given: Mapping) -> tuple[dict[str, Any], Problems]:
    """(the sections with their defaults, the problems of those that have any)."""
    resolved: dict[str, Any] = {}
    problems: Problems = {"": [], **{key: [] for key in SCHEMA}}
    misspelt = {_unknown(key, SCHEMA, "", problems[""]) for key in sorted(given.keys() - SCHEMA.keys(), key=str)}
    if isinstance(data := given.get("data"), Mapping) and data.get("rollout") is not None:
        given = {**given, "data": {"train": None, **data}}  # rollouts are enough to train on
    for key, field in SCHEMA.items():
        found = problems[key]
        resolved[key] = _subsection(given, key, field, found) if isinstance(field, dict) else _value(given, key, field, "", found)
    if isinstance(lora := resolved["model"]["lora"], Mapping):
        resolved["model"]["lora"] = _section(lora, LORA, "model.lora.", problems["model"])
    _check_sources(resolved["data"], problems["data"])
    _check_columns(resolved["data"], problems["data"])
    _check_eval(resolved["eval"], problems["eval"])
    for name in _misplaced(given):
        section, missing = name.partition(".")[0], _missing(name)
        kept = [line for line in problems.get(section, ()) if not line.startswith(missing)]
        if len(kept) < len(problems.get(section, ())):
            problems[section] = kept
            misspelt.add(section)
    bad = {key: lines for key, lines in problems.items() if lines}
    return resolved, {key: [] for key in misspelt & SCHEMA.keys()} | bad  # reported under another section


def _missing(name):
    # how a problem begins; of train.total_steps it is that of train.total, of data.train.path that of data.train
    return tuple(f"{part} is missing" for part in (name, name.rpartition("_")[0], name.rpartition(".")[0]) if part)


def _misplaced(given) -> set[str]:
    """Whole names of the keys that are given under other names, or in other sections: none of them is missing."""
    written = [("", key) for key in given.keys() - SCHEMA.keys()]
    sections = [key for key, schema in SCHEMA.items() if isinstance(schema, dict) and isinstance(given.get(key), Mapping)]
    written += [(section, key) for section in sections for key in given[section].keys() - SCHEMA[section].keys()]
    return {name for section, key in written if (name := called_here(section, key, ()))}


def _subsection(given, key, schema, problems):
    value = given.get(key, {})
    if isinstance(value, Mapping):
        return _section(value, schema, f"{key}.", problems)
    problems.append(f"{key}={value!r} is not a section; set keys below it, like {key}.{next(iter(schema))}.")
    return _section({}, schema, f"{key}.", [])


def _section(given, schema, prefix, problems):
    durations = {f"{name}_{unit}": name for name in DURATIONS.get(prefix.rstrip("."), ()) for unit in units(name)}
    known = {key for key in schema if key != "*"} | durations.keys()
    unknown = sorted(given.keys() - known, key=str)  # in an open section these are options of a function, and checked with it
    misspelt = {closest(key, known) if "*" in schema else _unknown(key, schema, prefix, problems) for key in unknown}
    resolved = {key: value for key, value in given.items() if key in durations or ("*" in schema and key not in known)}
    for key, field in schema.items():
        if key != "*":
            # without the name of its function the options of an open section are not looked at
            reported = key in misspelt and key not in given and not ("*" in schema and key == "name")
            resolved[key] = _value(given, key, field, prefix, [] if reported else problems)
    _check_durations(resolved, prefix, durations, [] if misspelt & durations.keys() else problems)
    return resolved


def _unknown(key, schema, prefix, problems) -> str | None:
    """Reports an unknown key of a section; the name of the key that was meant."""
    section = prefix.rstrip(".")
    table = "SOURCE" if schema is SOURCE else section
    durations = {name: [f"{name}_{unit}" for unit in units(name)] for name in DURATIONS.get(section, ())}
    known = [k for k in schema if k != "*"] + [name for names in durations.values() for name in names]
    if line := hint(prefix, table, key, known):
        problems.append(line)
        return called_here(table, key, known).removeprefix(f"{table}.")
    shown = sorted([k for k in schema if k != "*"] + [f"{name}_[{'|'.join(units(name))}]" for name in durations])
    problems.append(f"{prefix}{key}: unknown key{meant(key, known)}; accepted here: {', '.join(shown)}.")
    return closest(key, known)


def _value(given, key, field: Field, prefix, problems):
    if key not in given:
        if field.default is REQUIRED:
            problems.append(f"{prefix}{key} is missing: {field.help}.")
        return field.default
    value = given[key]
    if float in field.types and type(value) is int and abs(value) < LARGEST:
        value = float(value)
    if isinstance(value, list):
        value = tuple(value)
    # bool is an int to isinstance, and "True" rows are a mistake
    if not isinstance(value, field.types) or (isinstance(value, bool) and bool not in field.types):
        wanted = " or ".join("None" if t is type(None) else t.__name__ for t in field.types)
        problems.append(f"{prefix}{key}={value!r} is {type(value).__name__}, not {wanted}: {field.help}.")
    elif value == "" and not field.choices:
        problems.append(f"{prefix}{key}='' is empty; give a value, or leave the key out: {field.help}.")
    elif not isinstance(value, float | int) and (wrong := _wrong_item(value, field.items)):
        problems.append(f"{prefix}{key}={value!r}: {wrong}: {field.help}.")
    elif isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{prefix}{key}={value!r} is no finite number: {field.help}.")
    elif field.choices and not isinstance(value, Mapping) and value not in field.choices:
        choices, names = ", ".join(map(repr, field.choices)), [name for name in field.choices if isinstance(name, str)]
        problems.append(f"{prefix}{key}={value!r} is not one of {choices}{meant(value, names)}: {field.help}.")
    elif field.least is not None and value is not None and not value >= field.least:
        problems.append(f"{prefix}{key}={value!r} is not at least {field.least}: {field.help}.")
    elif field.most is not None and value is not None and value > field.most:
        problems.append(f"{prefix}{key}={value!r} is not at most {field.most:,}: {field.help}.")
    return value


def _wrong_item(value, types) -> str:
    """What is wrong with the first element of a tuple, or the first name or value of a dict, that is of another type; "" if none is."""
    names, items = (value.keys(), value.values()) if isinstance(value, Mapping) else ((), value if isinstance(value, tuple) else ())
    wrong = [(name, "str") for name in names if not isinstance(name, str)] if types else []
    taken = (*types, int) if float in types else types
    huge = [item for item in items if type(item) is int and abs(item) >= LARGEST]
    shown = " or ".join("None" if kind is type(None) else kind.__name__ for kind in types)
    wrong += [(item, shown) for item in items if types and (not isinstance(item, taken) or isinstance(item, bool) or item in huge)]
    return f"{wrong[0][0]!r} is {type(wrong[0][0]).__name__}, not {wrong[0][1]}" if wrong else ""


def _check_durations(resolved, prefix, durations, problems):
    for name, default in DURATIONS.get(prefix.rstrip("."), {}).items():
        keys = [key for key, base in durations.items() if base == name and resolved.get(key) is not None]
        if len(keys) > 1:
            problems.append(f"{prefix}{name} is given {len(keys)} times ({', '.join(keys)}); keep one of them.")
        if not keys and default is None:
            problems.append(f"{prefix}{name} is missing; give one of {', '.join(f'{name}_{unit}' for unit in units(name))}.")
        for key in keys:
            value = resolved[key]
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LONGEST:
                problems.append(f"{prefix}{key}={value!r} is not a finite number >= 0 and below {LONGEST:,}.")
            elif key.removeprefix(f"{name}_") in WHOLE and value != int(value):
                problems.append(f"{prefix}{key}={value!r} is not a whole number, and there are no parts of {key.removeprefix(f'{name}_')}.")
        if not keys and default:
            resolved[f"{name}_{default[0]}"] = default[1]


def _check_sources(data, problems):
    train, held_out = data["train"], data["eval"]
    if isinstance(train, tuple):
        data["train"] = tuple(_source(source, f"data.train[{i}]", problems) for i, source in enumerate(train))
        if not train:
            problems.append("data.train=() is an empty mixture; name at least one source.")
    elif isinstance(train, dict):
        data["train"] = _source(train, "data.train", problems)
    if isinstance(held_out, dict):
        data["eval"] = _sets(held_out, "data.eval", problems)
    if isinstance(rollout := data["rollout"], Mapping):
        spec = data["rollout"] = _section(rollout, ROLLOUT, "data.rollout.", problems)
        if isinstance(spec["prompts"], Mapping):
            spec["prompts"] = _source(spec["prompts"], "data.rollout.prompts", problems)


def _sets(given, where, problems):
    """One source, or several by name."""
    checked = {name: _source(source, f"{where}.{name}" if name else where, problems) for name, source in named_sets(given).items()}
    if "" in checked and len(checked) > 1:
        others = ", ".join(checked.keys() - {""})
        problems.append(f"{where} names a set '' beside {others}; give every set a name.")
    problems += [f"{where}: the name {name!r} of a set is no file name; leave / out." for name in checked if "/" in str(name)]
    return checked.get("", checked)


def _source(source, name, problems):
    if not isinstance(source, dict):
        problems.append(f"{name}={source!r} is not a source; write dict(path=...), dict(hf=...) or dict(tfds=...).")
        return None
    before = len(problems)
    resolved = _section(source, SOURCE, f"{name}.", problems)
    origins = [origin for origin in ("path", "hf", "tfds") if source.get(origin)]
    if len(origins) != 1 and len(problems) == before:
        problems.append(f"{name} names {' and '.join(origins) or 'no origin'}; give just one of path, hf, tfds.")
    return resolved


def _check_columns(data, problems):
    if not isinstance(data["computed"], dict):
        return
    columns = data["computed"] = dict(data["computed"])  # the schema's default stays empty
    for name, given in columns.items():
        where = f"data.computed.{name}"
        if not isinstance(given, dict):
            problems.append(f"{where}={given!r} is not a column; write {name}=dict(kind=..., model=...).")
            continue
        columns[name] = column = _section(given, COLUMN, f"{where}.", problems)
        if column["kind"] == "implicit_reward" and column["reference"] is None:
            problems.append(f"{where}.reference is missing: an implicit reward is beta times the log-ratio of model to reference.")


def _check_eval(section, problems):
    given = section["generate"]
    if isinstance(given, Mapping):
        spec = section["generate"] = _section(given, GENERATE, "eval.generate.", problems)
        if isinstance(spec["prompts"], Mapping):
            spec["prompts"] = _source(spec["prompts"], "eval.generate.prompts", problems)
    if isinstance(asked := section["multiple_choice"], Mapping):
        section["multiple_choice"] = _sets(asked, "eval.multiple_choice", problems)

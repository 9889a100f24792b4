"""The check of a whole configuration against the schema: every problem at once, each with the value, the rule and the way out.

Options of objectives, optimizers and reference rules are the keyword arguments of the function that the configuration names.
"""

import difflib
from functools import partial
import importlib.util
import inspect
import json
from typing import Any

from ml_collections import ConfigDict

from jaxalign.schema import DURATIONS, REQUIRED, SCHEMA, SOURCE, Field, units

# Settings that may differ from those of the run that is continued: they change where and how often, not what.
FREE_TO_CHANGE = (
    "mesh", "batch.microbatches", "model.attention", "model.remat", "model.checkpoint", "data.processes", "data.prepared_dir",
    *(f"train.{key}" for key in ("keep_last", "keep_best", "best_metric", "export", "wandb")),
    *(f"train.{name}_{unit}" for name in ("log_every", "eval_every", "save_every") for unit in units(name)),
)  # fmt: skip


class ConfigError(ValueError):
    """All problems of a configuration, one a line, each with the value, the rule and the way out."""


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
    _check_combinations(resolved, problems)
    raise_problems(problems)
    return ConfigDict(resolved)


def hparams_of(function) -> dict[str, Any]:
    """Keyword-only arguments of a function and their defaults (REQUIRED where there is none): its section of the config."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: REQUIRED if p.default is p.empty else p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def raise_problems(problems: list[str]) -> None:
    """Raises one ConfigError of all problems, if there are any."""
    if problems:
        raise ConfigError(f"the configuration has {len(problems)} problem{'s' * (len(problems) > 1)}:\n" + "\n".join(problems))


def _section(given, schema, prefix, problems):
    resolved = {}
    durations = {f"{name}_{unit}": name for name in DURATIONS.get(prefix.rstrip("."), ()) for unit in units(name)}
    open_ended = schema.get("*")
    for key, value in given.items():
        if key not in schema and key not in durations and not open_ended:
            accepted = sorted([k for k in schema if k != "*"] + [f"{name}_[{'|'.join(units(name))}]" for name in set(durations.values())])
            close = difflib.get_close_matches(key, accepted, n=1)
            meant = f" (did you mean {close[0]}?)" if close else ""
            problems.append(f"{prefix}{key}: unknown key{meant}; accepted here: {', '.join(accepted)}.")
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
            problems.append(f"{prefix}{name} is missing; give one of {', '.join(f'{name}_{unit}' for unit in units(name))}.")
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
    from jaxalign import objectives, optim, reference  # these import jax, which reading a config file need not

    objective_name = resolved["objective"].get("name")
    known = {}
    try:
        known[objective_name], module = objectives.named(objective_name)
    except ValueError as error:
        problems.append(str(error))
    if resolved["reference"]["rule"] is None:
        resolved["reference"]["rule"] = "frozen" if known and "reference" in module.REQUIRES else "none"
    for section, key, table in (
        ("objective", "name", known or {objective_name: None}),
        ("optimizer", "name", optim.RULES),
        ("reference", "rule", reference.RULES),
    ):
        name = resolved[section][key]
        if name not in table:
            problems.append(f"{section}.{key}={name!r} is not one of {', '.join(table)}.")
            continue
        if table[name] is None:  # an unknown objective, reported above
            continue
        accepted = hparams_of(table[name])
        fixed = {k for k in SCHEMA[section] if k != "*"} | {f"{d}_{u}" for d in DURATIONS.get(section, {}) for u in units(d)}
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
    """Rules between keys. A rule whose keys are wrong in themselves, which is reported already, is passed over."""
    for rule in (_batch_rule, _model_rule, _data_rule, _mesh_rule, _train_rule, _objective_rule):
        try:
            problems += rule(resolved)
        except (TypeError, KeyError, AttributeError, ValueError):
            if not problems:
                raise


def _batch_rule(resolved):
    rows, parts = resolved["batch"]["rows"], resolved["batch"]["microbatches"]
    if rows % parts:
        yield f"batch.rows={rows} does not split into batch.microbatches={parts}; choose a divisor of batch.rows."


def _model_rule(resolved):
    from jaxalign.models import presets

    model = resolved["model"]
    origins = [key for key in ("checkpoint", "preset", "config") if model[key] is not None]
    if len(origins) != 1:
        yield f"model names {origins or 'no origin'}; give just one of model.checkpoint, model.preset, model.config."
    if model["checkpoint"] is None and model["tokenizer"] is None:
        yield "model.tokenizer is missing: a model with random weights brings no tokenizer; name a tokenizer folder."
    if model["preset"] is not None and model["preset"] not in presets.PRESETS:
        yield f"model.preset={model['preset']!r} is not one of {', '.join(presets.PRESETS)}."


def _data_rule(resolved):
    data = resolved["data"]
    for key in ("max_prompt_tokens", "max_response_tokens"):
        if data[key] is not None and data[key] >= data["row_tokens"]:
            yield f"data.{key}={data[key]} leaves no room in data.row_tokens={data['row_tokens']}; make it smaller."
    if data["eval"] is not None and data["eval_fraction"]:
        yield "data.eval and data.eval_fraction are both given; keep one of them."
    if not 0 <= data["eval_fraction"] < 1:
        yield f"data.eval_fraction={data['eval_fraction']} is not in [0, 1)."
    if data["eval_fraction"] and isinstance(data["train"], tuple):
        yield "data.eval_fraction holds rows of one source out; with a mixture name the held-out rows in data.eval."
    for source in data["train"] if isinstance(data["train"], tuple) else ():
        if not source["weight"] > 0:
            yield f"data.train: weight={source['weight']} of a source is not above 0; leave the source out."


def _mesh_rule(resolved):
    sizes = {axis: resolved["mesh"][axis] for axis in ("data", "fsdp", "tensor")}
    if list(sizes.values()).count(-1) > 1:
        yield f"mesh={sizes}: only one axis may be -1 (what is left)."
    if 0 in sizes.values():
        yield f"mesh={sizes}: an axis has at least 1 device, or -1 for what is left."


def _train_rule(resolved):
    train, data = resolved["train"], resolved["data"]
    if train["keep_best"] and data["eval"] is None and not data["eval_fraction"]:
        yield f"train.keep_best={train['keep_best']} needs an evaluation; set data.eval or data.eval_fraction."
    if train["wandb"] and importlib.util.find_spec("wandb") is None:
        yield "train.wandb=True but the package wandb is not installed; pip install wandb, or leave train.wandb out."


def _objective_rule(resolved):
    from jaxalign import objectives

    name = resolved["objective"]["name"]
    objective, module = objectives.named(name)
    if resolved["reference"]["rule"] == "none" and "reference" in module.REQUIRES:
        yield f"reference.rule='none': objective {name!r} needs a reference; leave the key out or use 'frozen'."
    yield from _objective_problems(partial(objective, **{k: resolved["objective"][k] for k in hparams_of(objective)}))


def _objective_problems(objective) -> list[str]:
    """What the objective says of its hyper-parameters: it is traced on the shapes of one tiny batch."""
    import jax
    import jax.numpy as jnp

    from jaxalign.types import Batch, Outputs

    def shaped(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    row, group = (1, 2), (1, 2)
    tokens = [shaped(jnp.int32, *row) for _ in range(5)]
    batch = Batch(*tokens, shaped(jnp.float32, *group), shaped(jnp.bool, 1), shaped(jnp.bool, *group))
    outputs = Outputs(shaped(jnp.float32, *row), shaped(jnp.float32, *row, 1), shaped(jnp.float32, 1, 1))
    try:
        jax.eval_shape(objective, outputs, outputs, batch)
    except ValueError as error:
        return [str(error)]
    return []


def check_same_data(before: list[str], now: list[str], workdir) -> None:
    """Raises ValueError where a run is continued on other prepared rows; their names are hashes of their content."""
    if before != now:
        raise ValueError(
            f"{workdir} holds a run on other rows ({', '.join(before)}, now {', '.join(now)}): the data, the tokenizer or the way rows are "
            "made has changed; choose a new --workdir, or go back to the old data."
        )


def check_same_run(before: dict, now: dict, workdir) -> None:
    """Raises ValueError where a run is continued with settings that would have made it another run."""

    def flat(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    old, new = dict(flat(before)), dict(flat(json.loads(json.dumps(now))))
    changed = [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
    ]
    if changed:
        raise ValueError(
            f"{workdir} holds a run with other settings ({'; '.join(changed)}); choose a new --workdir, or go back to the old settings."
        )

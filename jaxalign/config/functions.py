"""The functions that a configuration names, and their options.

Options of objectives, forwards, optimizers and reference rules are the keyword arguments of the function that the configuration names.
"""

import math

from jaxalign.config.schema import DURATIONS, OTHER_NAMES, SCHEMA, units
from jaxalign.hparams import REQUIRED, hparams_of

# Arguments that the run gives a function by itself, from other sections.
FROM_ELSEWHERE = {"forward": ("dtype", "remat", "attention", "seed"), "reference": ("every_steps",)}


def fill_functions(resolved: dict, given: dict) -> list[str]:
    """Fills, in place, the sections whose keys are the arguments of the function that they name; returns the problems."""
    from jaxalign import objectives  # these import jax, which reading a config file need not
    from jaxalign.training import forward, optim, reference

    problems = []
    objective_name = resolved["objective"].get("name")
    known = {}
    try:
        known[objective_name], module = objectives.named(objective_name)
    except ValueError as error:
        problems.append(str(error))
    if resolved["reference"]["rule"] is None:
        resolved["reference"]["rule"] = "frozen" if known and "reference" in module.REQUIRES else "none"
    if resolved["forward"]["name"] is None:
        resolved["forward"]["name"] = vars(module).get("FORWARD", "next_token") if known else "next_token"
    for section, key, table in (
        ("objective", "name", known or {objective_name: None}),
        ("forward", "name", forward.FORWARDS),
        ("optimizer", "name", optim.RULES),
        ("reference", "rule", reference.RULES),
    ):
        name = resolved[section][key]
        if name not in table:
            problems.append(f"{section}.{key}={name!r} is not one of {', '.join(table)}.")
        elif table[name] is not None:  # None: an unknown objective, reported above
            accepted = {k: v for k, v in hparams_of(table[name]).items() if k not in FROM_ELSEWHERE.get(section, ())}
            problems += _fill(resolved[section], given.get(section, {}), section, name, accepted)
    return problems


def _fill(resolved, given, section, name, accepted):
    fixed = {k for k in SCHEMA[section] if k != "*"} | {f"{d}_{u}" for d in DURATIONS.get(section, {}) for u in units(d)}
    for option in given:
        if option not in accepted and option not in fixed and (other := OTHER_NAMES.get(f"{section}.{option}")):
            yield f"{section}.{option} is called {other} here."
        elif option not in accepted and option not in fixed:
            yield f"{section}.{option}: {name!r} has no such option; it takes {', '.join(accepted) or 'none'}."
    for option, default in accepted.items():
        value = resolved.setdefault(option, default)
        if isinstance(value, list):
            value = resolved[option] = tuple(value)
        if value is REQUIRED:
            yield f"{section}.{option} is missing: {name!r} needs it."
        elif default is not REQUIRED and default is not None:
            if isinstance(default, float) and type(value) is int:
                value = resolved[option] = float(value)
            if type(value) is not type(default):
                yield f"{section}.{option}={value!r} is {type(value).__name__}, not {type(default).__name__}."
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            yield f"{section}.{option}={value!r} is no finite number."

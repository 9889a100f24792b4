"""The functions that a configuration names, and their options.

Options of objectives, forwards, optimizers and reference rules are the keyword arguments of the function that the configuration names.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
import math
from typing import Any

from jaxalign.config.other_names import hint
from jaxalign.config.schema import DURATIONS, LARGEST, SCHEMA, units
from jaxalign.config.speech import ROLLOUT
from jaxalign.hparams import REQUIRED, hparams_of
from jaxalign.suggest import closest, meant

KEYS = {"objective": "name", "forward": "name", "optimizer": "name", "reference": "rule"}  # section -> the key that names its function
# Arguments that the run gives a function by itself, from other sections.
FROM_ELSEWHERE = {"forward": ("dtype", "remat", "attention", "seed"), "reference": ("every_steps",)}


def table(section: str) -> Mapping[str, Callable]:
    """Name -> function of everything that a section can name."""
    from jaxalign import objectives  # these import jax, which reading a config file need not
    from jaxalign.training import forward, optim, reference

    if section == "objective":
        return {name: objectives.named(name)[0] for name in objectives.names()}
    if section == "reference":
        return {name: rule.move for name, rule in reference.RULES.items()}
    return {"forward": forward.FORWARDS, "optimizer": optim.RULES}[section]


def function(section: str, name: str) -> Callable:
    """The function that a section names.

    Raises:
      ValueError: there is none of this name, or the file of an objective is none.
    """
    from jaxalign import objectives

    if section == "objective":
        return objectives.named(name)[0]  # without importing the others
    functions = table(section)
    if name not in functions:
        raise ValueError(f"{section}.{KEYS[section]}={name!r} is not one of {', '.join(functions)}{meant(name, functions)}.")
    return functions[name]


def accepted(section: str, name: str) -> dict[str, Any]:
    """The options of the function that a section names, and their defaults."""
    return {key: default for key, default in hparams_of(function(section, name)).items() if key not in FROM_ELSEWHERE.get(section, ())}


def options(cfg: Mapping, section: str) -> dict[str, Any]:
    """The keys of a section that are options of the function that it names."""
    return {key: cfg[section][key] for key in accepted(section, cfg[section][KEYS[section]])}


def rollout_options(feedback: str) -> dict[str, Any]:
    """The options of data.rollout that its feedback takes, and their defaults.

    Raises:
      ValueError: there is no such feedback.
    """
    from jaxalign.rollout.feedback import FEEDBACK

    if feedback not in FEEDBACK:
        raise ValueError(f"data.rollout.feedback={feedback!r} is not one of {', '.join(FEEDBACK)}{meant(feedback, FEEDBACK)}.")
    return FEEDBACK[feedback].options


def objective(cfg: Mapping):
    """The `objectives.Objective` of a resolved configuration, its hyper-parameters bound."""
    from jaxalign import objectives

    return objectives.bind(cfg["objective"]["name"], **options(cfg, "objective"))


def fill(resolved: dict, given: Mapping) -> dict[str, list[str]]:
    """Fills, in place, the sections whose keys are the options of the function that they name; returns the problems by section.

    A section that names no function, which is a problem already, is passed over.
    """
    problems: dict[str, list[str]] = {}
    reads, look = (), "next_token"
    if isinstance(resolved["objective"]["name"], str):
        from jaxalign import objectives

        try:
            module = objectives.named(resolved["objective"]["name"])[1]
        except ValueError as error:
            problems["objective"] = [str(error)]
        else:
            look = vars(module).get("FORWARD", look)
            if lines := _fill_section(resolved, given, "objective"):
                problems["objective"] = lines
            reads = module.REQUIRES if lines else objective(resolved).reads
    if resolved["reference"]["rule"] is None:
        resolved["reference"]["rule"] = "teacher" if "teacher" in reads else "frozen" if "reference" in reads else "none"
    if resolved["forward"]["name"] is None:
        resolved["forward"]["name"] = look
    for section in KEYS.keys() - {"objective"}:
        if lines := _fill_section(resolved, given, section):
            problems[section] = lines
    rollout = resolved["data"]["rollout"]
    if isinstance(rollout, dict) and isinstance(rollout["feedback"], str):
        if lines := list(_fill_rollout(rollout)):
            problems["data"] = lines
    return problems


def _fill_section(resolved: dict, given: Mapping, section: str) -> list[str]:
    name, options = resolved[section][KEYS[section]], given.get(section, {})
    if not isinstance(name, str) or not isinstance(options, Mapping):
        return []  # reported already
    try:
        takes = accepted(section, name)
    except ValueError as error:
        return [str(error)]
    durations = [f"{duration}_{unit}" for duration in DURATIONS.get(section, {}) for unit in units(duration)]
    fixed = [*(key for key in SCHEMA[section] if key != "*"), *durations]
    return list(fill_options(resolved[section], options, section, name, takes, fixed=fixed))


def _fill_rollout(rollout: dict) -> Iterator[str]:
    try:
        takes = rollout_options(rollout["feedback"])
    except ValueError as error:
        yield str(error)
        return
    yield from fill_options(rollout, list(rollout), "data.rollout", rollout["feedback"], takes, fixed=ROLLOUT)


def fill_options(
    resolved: dict, given: Collection[str], section: str, name: str, accepted: Mapping[str, Any], *, fixed: Collection[str]
) -> Iterator[str]:
    """Fills, in place, the options of one function with their defaults; yields the problems, one for each mistake.

    Args:
      given: the keys that the configuration has.
      section: where they stand.
      name: of the function.
      accepted: its options and their defaults.
      fixed: further keys of the section.
    """
    misspelt = set()
    for option in sorted(set(given) - accepted.keys() - set(fixed), key=str):
        resolved.pop(option, None)
        known = [*accepted, *fixed]
        if line := hint(f"{section}.", section, option, known):
            yield line
            continue
        misspelt.add(closest(option, known))
        yield f"{section}.{option}: {name!r} has no such option{meant(option, known)}; it takes {', '.join(accepted) or 'none'}."
    for option, default in accepted.items():
        value = resolved.setdefault(option, default)
        if isinstance(value, list):
            value = resolved[option] = tuple(value)
        if value is REQUIRED:
            if option not in misspelt:
                yield f"{section}.{option} is missing: {name!r} needs it."
            continue
        if isinstance(default, float) and type(value) is int and abs(value) < LARGEST:
            value = resolved[option] = float(value)
        if default is not REQUIRED and default is not None and type(value) is not type(default):
            yield f"{section}.{option}={value!r} is {type(value).__name__}, not {type(default).__name__}."
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            yield f"{section}.{option}={value!r} is no finite number."

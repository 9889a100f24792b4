"""A whole configuration with its defaults: every problem at once, each with the value, the rule and the way out."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from jaxalign import hidden
from jaxalign.config import former, functions, rules, sections
from jaxalign.suggest import meant


class ConfigError(ValueError):
    """All problems of a configuration, one a line, each with the value, the rule and the way out."""


def resolve(config: ConfigDict) -> ConfigDict:
    """The configuration with every default filled in.

    Raises:
      ConfigError: unknown keys, missing keys, wrong types, impossible combinations; all of them, one a line.
    """
    given = config.to_dict()
    raise_problems(  # alone: the lines of other problems show the values
        f"{key} holds a token or a password, which every checkpoint and report of the run would hold too; take it out, and give it in the "
        "environment, as HF_TOKEN of the hub."
        for key in dict.fromkeys(hidden.keys_with(given))
    )
    if "experiment" in given:
        return _experiment(given)
    given = former.translate(given)
    resolved, problems = sections.check(given)
    for section, lines in functions.fill(resolved, given).items():
        problems[section] = problems.get(section, []) + lines
    raise_problems([line for lines in problems.values() for line in lines] + rules.check(resolved, bad=problems.keys()))
    return ConfigDict(resolved)


def raise_problems(problems: Iterable[str]) -> None:
    """Raises one ConfigError of all problems, if there are any."""
    if problems := list(problems):
        raise ConfigError(f"the configuration has {len(problems)} problem{'s' * (len(problems) > 1)}:\n" + "\n".join(problems))


def _experiment(given):
    """A configuration of one of jaxalign/experiments: its name and its options."""
    from jaxalign import experiments

    section = dict(given.pop("experiment")) if isinstance(given["experiment"], dict) else {"name": given.pop("experiment")}
    problems = [f"{key}: unknown key beside experiment; an experiment has its own options only." for key in given]
    name = section.get("name")
    if name not in experiments.names():
        way = f"{meant(name, experiments.names())}; there are {', '.join(experiments.names())}"
        raise_problems([*problems, f"experiment.name={name!r} is no file of jaxalign/experiments{way}."])
    accepted = functions.hparams_of(experiments.named(name))
    problems += functions.fill_options(section, section.keys() - {"name"}, "experiment", name, accepted, fixed=("name",))
    raise_problems(problems)
    return ConfigDict({"experiment": section})

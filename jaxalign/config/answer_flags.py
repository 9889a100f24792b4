"""The flags of `evaluate` about answers: each sets a key of eval.generate."""

from argparse import Namespace
import math

from jaxalign.scoring import specs

ALL = "all"  # the --limit that leaves none out
OF_ANSWERS = ("against", "judge", "prompts", "limit", "samples", "max_new_tokens", "temperature")  # flags that are keys of eval.generate
TEXTS = ("against", "prompts")  # text, whatever it looks like


def overrides(options: Namespace) -> list[str]:
    """What the flags set in the configuration, as it is typed: --config.eval.generate.KEY=VALUE.

    Raises:
      ValueError: a number is none or out of its range, or a dict cannot be read.
    """
    values = {name: value for name in OF_ANSWERS if (value := getattr(options, name)) is not None}
    if not math.isfinite(values.get("temperature", 0)):
        raise ValueError(f"--temperature {values['temperature']} must be a finite number of at least 0.")
    values |= {name: repr(values[name]) for name in TEXTS if name in values}
    if "limit" in values:
        values["limit"] = _limit(values["limit"])
    if "judge" in values:
        values["judge"] = repr(specs.of_flag(values["judge"]))
    if options.reward:  # with them goes the judge of those before
        values = {"judge": None, **values, "rewards": repr(specs.by_name([specs.of_flag(text) for text in options.reward]))}
    below = f"{options.stage}." if options.config and options.stage else ""
    return [f"--config.{below}eval.generate.{name}={value}" for name, value in values.items()]


def _limit(text):
    if text != ALL and not (text.isdecimal() and int(text)):
        raise ValueError(f"--limit {text} must be a whole number of prompts from 1, or {ALL}.")
    return None if text == ALL else int(text)

"""One file per loss; the file name is the registry.

An objective is a function of its file's name, `(policy, reference, batch, *, hyper-parameters) -> Terms`, beside a tuple REQUIRES of what
it reads (see READS). Its keyword arguments are its section of the config. Its module may also hold

    statistics(policy, reference, batch, *, some hyper-parameters) -> {name: (values, weights)}
    carry(previous, current, step, *, some hyper-parameters) -> {name: scalar}
    requires(*, some hyper-parameters) -> more of what it reads, where that depends on them
    FORWARD = "name of a function of jaxalign/training/forward.py"

`statistics` are means over the *whole* global batch, whatever the microbatches and devices, without a gradient; the objective gets them as
its fourth argument, a dict of float32 scalars. `carry` makes them out of those of the step before (at first 0) and this step's means.
All three get those hyper-parameters that they name, keyword-only; the defaults are the objective's.
"""

from collections.abc import Callable, Mapping
import dataclasses
from functools import partial
import importlib
import inspect
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxalign.hparams import REQUIRED, hparams_of
from jaxalign.paths import line_of, message_of
from jaxalign.suggest import meant
from jaxalign.types import Batch, Features, Outputs

READS = {
    "paired": "groups whose response 0 is preferred to response 1",
    "unpaired": "groups of which every response is trained; pairs are refused",
    "ranked": "lists of at least two responses, best first",
    "mixed": "pairs and single responses; lists are refused, of which it would use two",
    "rewards": "rewards, scores or labels, by which responses differ",
    "reference": "log-probs of a reference model",
    "teacher": "a reference that is another model, unless reference.rule names one of another kind",
    "own_samples": "samples of the policy alone, as its weights of the step give them",
    "mismatched": "a response of another prompt in every group",
    "value_head": "the model's value head",
    "reward_head": "the model's reward head",
    "critic": "the model's critic",
    "no_logps": "no log-probs: the model's table of output tokens is left out",
    "features": "a reward head on features of the responses",
    "value_head_alone": "nothing else that is trained: a head on a frozen model",
    "reward_head_alone": "the same of a reward head",
    "scores_of_prompts": "values in (0, 1)",
    "columns.NAME": "a precomputed column of responses",
    "token_columns.NAME": "a column of tokens of a rollout",
}


@dataclasses.dataclass(frozen=True)
class Objective:
    """An objective with its hyper-parameters bound: what the step calls, and what is true of it."""

    terms: Callable  # (policy, reference, batch, statistics) -> Terms
    statistics: Callable  # (policy, reference, batch) -> {name: (values, weights)}; {} where there are none
    carry: Callable  # (previous, current, step) -> statistics
    name: str = ""
    hparams: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reads: tuple[str, ...] = ()  # some of READS
    forward: str = "next_token"  # a name of `training.forward.FORWARDS`

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of responses that it reads."""
        return tuple(key.removeprefix("columns.") for key in self.reads if key.startswith("columns."))

    @property
    def token_columns(self) -> tuple[str, ...]:
        """Names of the columns of tokens that it reads."""
        return tuple(key.removeprefix("token_columns.") for key in self.reads if key.startswith("token_columns."))

    @property
    def statistics_names(self) -> tuple[str, ...]:
        """Names of what it carries from step to step, by tracing its statistics on shapes."""
        columns = (*self.columns, *(("mismatched",) if "mismatched" in self.reads else ()))
        heads = {head: head in self.reads for head in ("value_head", "reward_head", "critic")}
        features = ("feature",) if "features" in self.reads else ()
        outputs, batch = tiny_inputs(columns=columns, token_columns=self.token_columns, features=features, **heads)
        return tuple(sorted(jax.eval_shape(self.statistics, outputs, outputs, batch)))


def bind(name: str, **hparams) -> Objective:
    """The objective of this name with these hyper-parameters; what it reads of the batch is a constant to it.

    Raises:
      ValueError: no such file.
    """
    function, module = named(name)
    parts, hparams = vars(module), _defaults(function) | hparams
    more = _given(parts["requires"], hparams)() if "requires" in parts else ()
    facts = {"name": name, "hparams": hparams, "reads": module.REQUIRES + more, "forward": parts.get("FORWARD", "next_token")}
    function = partial(function, **hparams)
    if "statistics" not in parts:
        return dataclasses.replace(plain(function), **facts)
    return Objective(
        lambda policy, reference, batch, known: function(policy, reference, jax.lax.stop_gradient(batch), known),
        _given(parts["statistics"], hparams),
        _given(parts["carry"], hparams) if "carry" in parts else lambda _, current, __: current,
        **facts,
    )


def _defaults(function):
    return {key: value for key, value in hparams_of(function).items() if value is not REQUIRED}


def _given(function, hparams):
    """The function with those hyper-parameters that it names."""
    return partial(function, **{key: hparams[key] for key in hparams_of(function) if key in hparams})


def plain(function: Callable) -> Objective:
    """An objective `(policy, reference, batch) -> Terms` that needs no statistics."""
    return Objective(
        lambda policy, reference, batch, _: function(policy, reference, jax.lax.stop_gradient(batch)),
        lambda *_: {},
        lambda _, current, __: current,
    )


def named(name: str):
    """The objective function of jaxalign/objectives/NAME.py and its module.

    Raises:
      ValueError: no such file; lists those there are. Or one that cannot be imported, or does not hold what this module's docstring asks
        for.
    """
    if name not in names():
        way = f"{meant(name, names())}; there are {', '.join(names())}"
        raise ValueError(f"objective.name={name!r} is no file of jaxalign/objectives{way}.")
    try:
        module = importlib.import_module(f"jaxalign.objectives.{name}")
    except Exception as error:
        file = Path(__file__).with_name(f"{name}.py")
        raise ValueError(f"jaxalign/objectives/{name}.py{line_of(error, file)}: {message_of(error)}") from error
    check(name, vars(module))
    return getattr(module, name), module


def check(name: str, parts: dict) -> None:
    """Refuses, with the way out, the contents of a module that is no objective.

    Raises:
      ValueError: no function of this name, no tuple REQUIRES, an unknown key in it, or hyper-parameters that are not keyword-only.
    """
    if not callable(parts.get(name)):
        raise ValueError(f"jaxalign/objectives/{name}.py has no function {name!r}; the objective is called like its file.")
    requires = parts.get("REQUIRES")
    if not isinstance(requires, tuple):
        raise ValueError(f"objective {name!r} has REQUIRES={requires!r}; give a tuple, () or some of {', '.join(READS)}.")
    for key in requires:
        if key not in READS and not str(key).startswith(("columns.", "token_columns.")):
            raise ValueError(f"REQUIRES of objective {name!r} has {key!r}; there are {', '.join(READS)}.")
    arrays = ("policy", "reference", "batch", "statistics")[: 4 if "statistics" in parts else 3]
    parameters = inspect.signature(parts[name]).parameters.values()
    if len(positional := [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]) != len(arrays):
        raise ValueError(
            f"objective {name!r} takes ({', '.join(positional)}) by position where it gets ({', '.join(arrays)}); "
            "take these, and write * before hyper-parameters."
        )


def names() -> list[str]:
    """Names of all objectives: the files of jaxalign/objectives."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem != "__init__")


def tiny_inputs(
    *,
    columns: tuple[str, ...] = (),
    token_columns: tuple[str, ...] = (),
    value_head: bool = False,
    reward_head: bool = False,
    critic: bool = False,
    features: tuple[str, ...] = (),
) -> tuple[Outputs, Batch]:
    """Shapes of the smallest outputs and batch, to trace an objective on: one row of three tokens, one group, two responses."""

    def shaped(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    row, group = (1, 3), (1, 2)
    extra = {name: shaped(jnp.float32, *group) for name in columns} | {name: shaped(jnp.float32, *row) for name in token_columns}
    tokens = [shaped(jnp.int32, *row) for _ in range(5)]
    batch = Batch(*tokens, shaped(jnp.float32, *group), shaped(jnp.bool, 1), shaped(jnp.bool, *group), extra)
    of_heads = {name: shaped(jnp.float32, *group) for name, there in (("prompt_values", value_head), ("rewards", reward_head)) if there}
    if features:
        values, members = (shaped(jnp.float32, *group, size) for size in (len(features), 1))
        of_heads["features"] = Features(values, members, features, (1,) * len(features))
    if critic:
        of_heads["values"] = shaped(jnp.float32, *row)
    hidden = shaped(jnp.float32, *row, 1), shaped(jnp.float32, 1, 1)
    return Outputs(shaped(jnp.float32, *row), *hidden, **of_heads, step=shaped(jnp.int32), vocab_size=1), batch

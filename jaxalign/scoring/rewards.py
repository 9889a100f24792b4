"""Rewards as functions: (prompts, completions, metadata) -> float32[n].

A spec names one: "length", "exact_match", "gsm8k", "regex:PATTERN", "FILE.py:NAME", "model:RUN_OR_FOLDER", "judge:MODEL@https://HOST/v1";
or a dict with its options, as dict(kind="length", unit="words"), dict(kind="python", function="FILE.py:NAME", timeout_s=5), and for a
weighted sum dict(kind="sum", of={name: (spec, weight)}). A dict of any kind may also hold COMMON: what stands for a score that is missing,
and the mean, the standard deviation and the limit of a score that is brought to a known scale.
"""

import collections.abc
from collections.abc import Mapping, Sequence
import dataclasses
import math
from pathlib import Path
import re
import types
import typing
from typing import Any

import numpy as np

from jaxalign.hparams import REQUIRED, hparams_of
from jaxalign.manifest import content_hash, hash_of
from jaxalign.models.features import FeatureHeadConfig
from jaxalign.scoring import features, grading, reward_model, rules
from jaxalign.scoring.callables import HostFunction
from jaxalign.scoring.faults import Fault, Faults, Prompt, shown
from jaxalign.suggest import meant
from jaxalign.training.runs import from_first
from jaxalign.training.sources import Source

PYTHON = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")
LARGEST = float(np.finfo(np.float32).max)
LONGEST_S = 86_400  # of a call of a function: a day
TYPES = {collections.abc.Mapping: "a dict"}  # what a reader knows them as


@dataclasses.dataclass(frozen=True)
class Scale:
    """(score - mean) / std, cut to [-clip, clip]; by statistics of reference answers, say, that stay while a policy is trained."""

    mean: float = 0.0
    std: float = 1.0
    clip: float | None = None

    def __call__(self, score: float) -> float:
        """A finite score on this scale."""
        scaled = (score - self.mean) / self.std
        return scaled if self.clip is None else min(max(scaled, -self.clip), self.clip)


COMMON = {"fault_value": float | None} | typing.get_type_hints(Scale)  # options of every kind


@dataclasses.dataclass(frozen=True)
class Reward:
    """Scores of completions. A sample that cannot be scored is counted in `faults` and gets `fault_value`."""

    name: str  # as the user wrote it
    spec: Mapping[str, Any]  # plain values that make it
    rule: rules.Rule
    fault_value: float = math.nan  # NaN: left out of every mean
    scale: Scale = Scale()
    faults: Faults = dataclasses.field(default_factory=Faults)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str], metadata: Sequence[Mapping]) -> np.ndarray:
        """The score of every completion on its scale, float32[n]; `fault_value`, as it is, where there is none; never infinite.

        Args:
          prompts: text or messages.
          completions: the answers as text.
          metadata: the other columns of each prompt's row.
        """
        if not len(prompts) == len(completions) == len(metadata):
            raise ValueError(f"{len(prompts)} prompts, {len(completions)} completions and {len(metadata)} rows; of each one per sample.")
        if not len(completions):
            return np.zeros(0, np.float32)
        written = [prompt if isinstance(prompt, str) else list(prompt) for prompt in prompts]
        scores = list(self.rule.score(written, completions, metadata))
        for number, score in enumerate(scores):
            if not isinstance(score, Fault):
                scaled = self.scale(float(score)) if math.isfinite(score) else score
                scores[number] = scaled if abs(scaled) <= LARGEST else Fault("not_finite", f"its score is {score}.")
        faults = [(shown(prompt), score) for prompt, score in zip(prompts, scores, strict=True) if isinstance(score, Fault)]
        self.faults.add(len(scores), faults)
        return np.array([self.fault_value if isinstance(score, Fault) else score for score in scores], np.float32)

    def check(self, metadata: Sequence[Mapping]) -> None:
        """Raises ValueError where it reads a column that no row has, or cannot be asked; before anything is generated for these rows."""
        self.rule.ready()
        for column in self.rule.columns:
            if metadata and not any(column in row for row in metadata):
                known = sorted({name for row in metadata for name in row})
                there = f"they have {', '.join(known)}{meant(column, known)}" if known else "they have no column beside their prompt"
                raise ValueError(f"reward {self.name!r} reads the column {column!r} of the prompts' rows; {there}.")
        for part in self.rule.parts:
            part.check(metadata)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the prompts' rows that it and its parts read."""
        return (*self.rule.columns, *(column for part in self.rule.parts for column in part.columns))

    @property
    def writes_prompt(self) -> bool:
        """Whether it, or a part of it, needs prompts as they were asked: it renders them itself."""
        return self.rule.writes_prompt or any(part.writes_prompt for part in self.rule.parts)

    def lines(self) -> list[str]:
        """What went wrong so far, a line per reason; empty where nothing did."""
        effect = "left out" if math.isnan(self.fault_value) else f"given {self.fault_value:g}"
        own = [f"reward {self.name!r}: {line}" for line in (*self.faults.lines(effect), *self.rule.remarks().values())]
        return own + [line for part in self.rule.parts for line in part.lines()]

    def remarks(self) -> dict[str, str]:
        """Name of a kind -> its line, of the lines about calls that went wrong though every sample has a score."""
        own = {f"{self.name}: {kind}": f"reward {self.name!r}: {line}" for kind, line in self.rule.remarks().items()}
        return own | {kind: line for part in self.rule.parts for kind, line in part.remarks().items()}


def make(spec: str | Mapping) -> Reward:
    """The reward that a spec names; see the top of this file.

    Every dict may hold fault_value, the score of samples that cannot be scored (None leaves them out of every mean), and what `Scale` has.

    Raises:
      ValueError, FileNotFoundError: the spec is none, an option is wrong, or there is no such file, function or model.
    """
    options = parse(spec)
    kind, fault_value = options.pop("kind"), options.pop("fault_value", None)
    name = spec if isinstance(spec, str) else f"{kind}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
    scale = Scale(**{key: options.pop(key) for key in COMMON if key in options})
    rule = KINDS[kind](**options)
    return Reward(name, parse(spec), rule, math.nan if fault_value is None else float(fault_value), scale)


def content(spec: str | Mapping) -> str | None:
    """A hash of what a reward is made of beside its spec, the file of a function or the weights of a model; None where there is nothing.

    With several processes all must call this.
    """
    options = parse(spec)
    if options["kind"] == "model":
        return Source(options["model"]).identity()
    if options["kind"] == "python":
        file = Path(options["function"].rpartition(":")[0])
        return from_first(lambda: hash_of([file]) if file.is_file() else None)
    parts = {name: content(part) for name, (part, _) in options["of"].items()} if options["kind"] == "sum" else {}
    return content_hash(parts) if any(parts.values()) else None


def parse(spec: str | Mapping) -> dict[str, Any]:
    """The spec as a dict with its kind, checked as far as can be without looking at files.

    Raises:
      ValueError: it names no kind of reward, or an option is missing, unknown or of the wrong type.
    """
    if not isinstance(spec, str | Mapping):
        raise ValueError(f"a reward is a text or a dict, not {spec!r}.")
    options = _of_text(spec) if isinstance(spec, str) else dict(spec)
    kind = options.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        known = f"{', '.join(KINDS)}{meant(str(kind), KINDS)}"
        raise ValueError(f"{spec!r} is no reward: there are {known}, or regex:PATTERN, FILE.py:NAME, model:NAME, judge:MODEL@URL.")
    accepted = hparams_of(KINDS[kind])
    for name, value in options.items():
        if name not in ("kind", *COMMON, *accepted):
            known = [*accepted, *COMMON]
            raise ValueError(f"reward {kind!r} has no option {name!r}{meant(name, known)}; it takes {', '.join(known)}.")
        if name != "kind":
            _check_value(kind, name, value)
    if missing := [name for name, default in accepted.items() if default is REQUIRED and name not in options]:
        raise ValueError(f"reward {kind!r} needs {', '.join(missing)}.")
    if kind == "sum":
        _check_parts(options["of"])
    return options


def _of_text(text):
    kind, colon, rest = text.partition(":")
    if colon and kind in BRIEF:
        return {"kind": kind, BRIEF[kind]: rest}
    if PYTHON.fullmatch(text) or text.endswith(".py"):
        return {"kind": "python", "function": text}
    return {"kind": text}


def _check_value(kind, name, value):
    wanted = COMMON[name] if name in COMMON else typing.get_type_hints(KINDS[kind])[name]
    kinds = [typing.get_origin(one) or one for one in (typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,))]
    accepted = (*kinds, int) if float in kinds else tuple(kinds)
    if not isinstance(value, accepted) or (type(value) is bool and bool not in kinds):  # bool is an int to isinstance
        names = " or ".join("None" if one is types.NoneType else TYPES.get(one, one.__name__) for one in kinds)
        raise ValueError(f"reward {kind!r}: {name}={value!r} is {type(value).__name__}, not {names}.")
    if value == "":
        raise ValueError(f"reward {kind!r}: {name}={value!r} must be a text.")
    if name in COMMON and value is not None:
        _check_number(kind, name, value)
    if name == "timeout_s" and not 0 < value <= LONGEST_S:
        raise ValueError(f"reward {kind!r}: timeout_s={value!r} must be a number of seconds above 0 and at most {LONGEST_S:,}.")


def _check_number(kind, name, value):
    if not abs(value) <= LARGEST:
        left = "; None leaves samples without a score out" if name == "fault_value" else ""
        raise ValueError(f"reward {kind!r}: {name}={value!r} is no finite number of float32{left}.")
    if name in ("std", "clip") and not value > 0:
        raise ValueError(f"reward {kind!r}: {name}={value!r} must be above 0.")


def _check_parts(of):
    if not of:
        raise ValueError(f"reward 'sum': of={of!r} must be a dict of name: (spec, weight).")
    for name, part in of.items():
        if not isinstance(part, list | tuple) or len(part) != 2:
            raise ValueError(f"reward 'sum': {name}={part!r} must be (spec, weight).")
        if isinstance(part[1], bool) or not isinstance(part[1], int | float) or not abs(part[1]) <= LARGEST:
            raise ValueError(f"reward 'sum': the weight of {name} is {part[1]!r}; it must be a finite number of float32.")
        parse(part[0])


def _regex(*, pattern: str, column: str | None = None, timeout_s: float = 10.0) -> rules.Rule:
    """`rules.matches`, in a process of its own: some patterns take for ever on some texts.

    Args:
      pattern: a regular expression of Python, searched for anywhere in the completion; (?i) before it ignores case.
      column: of the row, with the answer that the first group must hold; None: it is enough that the pattern is found.
      timeout_s: of one call.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"reward 'regex': the pattern {pattern!r} cannot be read: {error}.") from error
    function = HostFunction(rules.__file__, "matches", options={"pattern": pattern, "column": column}, timeout_s=timeout_s)
    return rules.Rule(function) if column is None else rules.having(rules.Rule(function), column)


def _python(*, function: str, options: Mapping | None = None, timeout_s: float = 30.0) -> rules.Rule:
    """A function of the user, name(prompts, completions, metadata, **options) -> numbers, in a process of its own.

    Args:
      function: FILE.py:NAME.
      options: further keyword arguments.
      timeout_s: of one call; what takes longer is ended, and counted.
    """
    match = PYTHON.fullmatch(function)
    if match is None:
        raise ValueError(f"reward {function!r} is not of the form FILE.py:NAME, with the name of a function in the file.")
    host = HostFunction(match["file"], match["name"], options=options or {}, timeout_s=timeout_s)
    return rules.Rule(host, remarks=host.remarks)


def _model(*, model: str, template: str | None = None) -> rules.Rule:
    """The score of a reward model.

    Args:
      model: a run with a reward head, or the folder or hub name of a sequence classifier with one label.
      template: None takes what a run trained with, and a folder's own chat template, or plain text where it has none.
    """
    source = Source(model)
    if isinstance(source.reward_head, FeatureHeadConfig):
        return features.rule(source, make)
    return rules.Rule(reward_model.load_model(model, template=template), writes_prompt=True)


def _sum(*, of: Mapping[str, tuple]) -> rules.Rule:
    """A weighted sum of rewards.

    Args:
      of: name -> (spec, weight).
    """
    parts = {name: (make(spec), weight) for name, (spec, weight) in of.items()}

    def score(prompts, completions, metadata):
        total = np.zeros(len(completions))
        missing: dict[int, str] = {}
        for name, (reward, weight) in parts.items():
            scores = reward(prompts, completions, metadata).astype(np.float64)
            missing |= {int(number): name for number in np.flatnonzero(np.isnan(scores))}
            total += weight * scores
        return [Fault("part", f"{missing[number]} has no score.") if number in missing else value for number, value in enumerate(total)]

    return rules.Rule(score, parts=tuple(reward for reward, _ in parts.values()))


KINDS = {  # name -> function of its options
    "length": rules.length,
    "exact_match": rules.exact_match,
    "gsm8k": rules.gsm8k,
    "regex": _regex,
    "python": _python,
    "model": _model,
    "judge": grading.judge,
    "sum": _sum,
}
BRIEF = {"regex": "pattern", "python": "function", "model": "model", "judge": "model"}  # kind -> the option that "KIND:TEXT" gives

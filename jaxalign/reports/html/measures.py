"""What a metric of answers means: how they were drawn and judged belongs to it, so that what differs in that has a name of its own."""

from collections.abc import Iterable, Mapping, Sequence
import hashlib
import json
import re
from typing import Any, NamedTuple

from jaxalign.reports.page import ANSWERS

REWARD, EXACT, WIN_RATE, CONTROLLED = (f"{ANSWERS}{name}" for name in ("reward", "exact_match", "win_rate", "win_rate_length_controlled"))
RIGHT = EXACT.removeprefix(ANSWERS)  # among the rewards of a sample
BEFORE_LABEL = " · "  # stands between a metric and what differs in its settings
PART = re.compile(r", (?=\w+[ .])")  # between the settings of answers
JUDGED = ("rewards", "judge", "against")  # settings that matter for some metrics only
OF_PROMPTS = ("prompts", "limit")  # that the prompts themselves tell better
INDIFFERENT = ("samples", "seed", "places", "kl")  # settings that change how exactly a metric is measured, and not what it means
UNKNOWN = "settings not known"


class How(NamedTuple):
    """How the answers of an evaluation were drawn and judged."""

    drawn: tuple[str, ...]  # the settings that change what is said
    rewards: Mapping[str, str]  # name -> what it is
    decides: str  # the name of the reward that verdicts come from, or the judge itself; "" where there is none
    opponent: str  # whose answers they were judged beside; "" for nobody's
    asked: str  # the prompts in words

    def of(self, metric: str) -> tuple[str, ...]:
        """The settings that change what a metric means."""
        if not metric.startswith(ANSWERS):
            return ()
        if metric in (WIN_RATE, CONTROLLED):
            return (*self.drawn, f"against {self.opponent}", f"by {self.rewards.get(self.decides, self.decides)}")
        name = self.reward(metric)
        return (*self.drawn, f"by {self.rewards.get(name, name)}") if name else self.drawn

    def reward(self, metric: str) -> str:
        """The name of the reward that a metric is the mean of; "" for other metrics."""
        if metric == REWARD:
            return self.decides
        return RIGHT if metric == EXACT else metric.removeprefix(f"{REWARD}/") if metric.startswith(f"{REWARD}/") else ""


def how(settings: str, samples: Sequence[Mapping[str, Any]]) -> How:
    """How answers were drawn and judged.

    Args:
      settings: as `config.describe.answers` lists them; "" where they are not known.
      samples: the answers, which tell what their prompts are.
    """
    parts = PART.split(settings) if settings else []
    names = list(samples[0].get("rewards", {})) if samples else []
    rewards: dict[str, list[str]] = {} if settings else {name: [name] for name in names}
    for name, value in (_reward(part.removeprefix("rewards."), names) for part in parts if _key(part) == "rewards"):
        rewards.setdefault(name, []).append(value)
    judge = " ".join(part.partition(" ")[2] for part in parts if _key(part) == "judge")
    against = next((part.partition(" ")[2] for part in parts if _key(part) == "against"), "")
    origins = (str(sample["against"].get("from") or "") for sample in samples if sample.get("against"))
    drawn = [part for part in parts if _key(part) not in (*JUDGED, *INDIFFERENT, *(OF_PROMPTS if samples else ()))]
    return How(
        (*(drawn if settings else [UNKNOWN]), *([_prompts(samples)] if samples else [])),
        {name: " ".join(values) for name, values in rewards.items()},
        judge or (next(iter(rewards)) if len(rewards) == 1 else ""),
        next(filter(None, origins), against),
        _asked(settings, parts, samples),
    )


def named(measured: Iterable[tuple[str, How]]) -> dict[tuple[str, tuple[str, ...]], str]:
    """(metric, its settings) -> its name: the metric, and where it was measured with several settings, what differs in them."""
    variants: dict[str, dict[tuple[str, ...], How]] = {}
    for metric, one in measured:
        variants.setdefault(metric, {}).setdefault(one.of(metric), one)
    names = {}
    for metric, hows in variants.items():
        labels = dict(zip(hows, _labels(hows), strict=True)) if len(hows) > 1 else {}
        names |= {(metric, parts): metric + (BEFORE_LABEL + labels[parts] if labels else "") for parts in hows}
    return names


def metric(name: str) -> str:
    """The metric that a name is of."""
    return name.partition(BEFORE_LABEL)[0]


def label(name: str) -> str:
    """What differs in the settings of a name from those of the same metric; "" where nothing does."""
    return name.partition(BEFORE_LABEL)[2]


def _labels(hows: Mapping[tuple[str, ...], How]) -> list[str]:
    """What each of several settings has that not all of them have, in words."""
    common = set.intersection(*map(set, hows))
    differing = {_key(part) for parts in hows for part in parts if part not in common}
    asked = {part: one.asked for parts, one in hows.items() for part in parts if _key(part) == "prompts"}
    same = [text for text in asked.values() if list(asked.values()).count(text) > 1]
    labels = []
    for parts in hows:
        own = [part for part in parts if part not in common]
        lacking = [] if UNKNOWN in parts else sorted(differing - {_key(part) for part in parts} - {_key(UNKNOWN), "prompts"})
        texts = [f"{asked[part]} ({part[-4:]})" if asked.get(part) in same else asked.get(part, part) for part in own]
        labels.append(", ".join([*texts, *(f"no {key}" for key in lacking)]))
    return [one if labels.count(one) == 1 else f"{one} ({number})" for number, one in enumerate(labels, 1)]


def _prompts(samples) -> str:
    """One word for a set of prompts, whatever file they are from."""
    prompts = sorted({json.dumps([str(sample["id"]), sample["prompt"]], sort_keys=True) for sample in samples})
    return f"prompts {hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:12]}"


def _asked(settings, parts, samples):
    count = len({json.dumps([str(sample["id"]), sample["prompt"]], sort_keys=True) for sample in samples})
    source = next((part.partition(" ")[2] for part in parts if part.startswith(("prompts ", "prompts.path "))), "the held-out rows")
    return f"{count:,} prompt{'s' if count != 1 else ''}{f' of {source}' if settings else ''}"


def _reward(text, names):
    """(name of a reward, what it is): of "NAME SPEC" or of "NAME.KEY VALUE"."""
    known = max((name for name in names if text.startswith((f"{name} ", f"{name}."))), key=len, default="")
    name = known or text.partition(" ")[0].partition(".")[0]
    return name, text[len(name) :].removeprefix(".").strip()


def _key(part):
    """The key of a setting, without what is below it."""
    return part.partition(" ")[0].partition(".")[0]

"""What a metric of answers means: how they were drawn and judged belongs to it, so that what differs in that has a name of its own."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import json
import re
from typing import Any, NamedTuple

from jaxalign.reports.page import ANSWERS

REWARD, EXACT, WIN_RATE, CONTROLLED = (f"{ANSWERS}{name}" for name in ("reward", "exact_match", "win_rate", "win_rate_length_controlled"))
RIGHT = EXACT.removeprefix(ANSWERS)  # among the rewards of a sample
PROMPTS = "prompts "  # what stands before them among settings
BEFORE_LABEL = " · "  # stands between a metric and what differs in its settings
JUDGED = ("rewards", "judge", "against")  # settings that matter for some metrics only
OF_PROMPTS = ("prompts", "limit")  # that the prompts themselves tell better
OF_A_FILE = ("prompts ", "prompts.path ")
INDIFFERENT = ("samples", "seed", "places", "kl")  # settings that change how exactly a metric is measured, and not what it means
UNKNOWN, NO_PROMPTS = "settings not known", "prompts not known"
DRAWN = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "stop")  # settings that change what is said
KEYS = (*DRAWN, *JUDGED, *OF_PROMPTS, *INDIFFERENT)  # of eval.generate
PART = re.compile(rf", (?=(?:{'|'.join(KEYS)})[ .])")  # between the settings of answers; a text among them may have commas as well
SHARED = 0.9  # of their prompts two evaluations share that are of the same ones: a row may be too long for one run, and not for another


class How(NamedTuple):
    """How the answers of an evaluation were drawn and judged."""

    drawn: tuple[str, ...]  # the settings that change what is said
    rewards: Mapping[str, str]  # name -> what it is
    decides: str  # the name of the reward that verdicts come from, or the judge itself; "" where there is none
    opponent: str  # whose answers they were judged beside; "" for nobody's
    prompts: frozenset[str]  # empty where no samples tell
    source: str  # what the prompts are, in words

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
        tuple(drawn) if settings else (UNKNOWN,),
        {name: " ".join(values) for name, values in rewards.items()},
        judge or (next(iter(rewards)) if len(rewards) == 1 else ""),
        next(filter(None, origins), against),
        frozenset(json.dumps([str(sample["id"]), sample["prompt"]], sort_keys=True) for sample in samples),
        next((part.rpartition("/")[2].rpartition(" ")[2] for part in parts if part.startswith(OF_A_FILE)), "the held-out rows"),
    )


def with_prompts(hows: Sequence[How]) -> list[How]:
    """The same, with the prompts, in words, among the settings that change what is said."""
    sets: dict[frozenset[str], frozenset[str]] = {}  # prompts -> the first ones that are as good as the same
    for prompts in sorted({one.prompts for one in hows if one.prompts}, key=lambda prompts: (-len(prompts), sorted(prompts))):
        sets[prompts] = next((one for one in sets.values() if len(prompts & one) >= SHARED * len(one)), prompts)
    parts, words = {}, collections.Counter()
    for one in (one for one in hows if one.prompts and sets[one.prompts] not in parts):
        count = len(sets[one.prompts])
        text = f"{count:,} prompt{'s' if count > 1 else ''}{'' if UNKNOWN in one.drawn else f' of {one.source}'}"
        words[text] += 1
        parts[sets[one.prompts]] = PROMPTS + text + (f", set {words[text]}" if words[text] > 1 else "")
    return [one._replace(drawn=(*one.drawn, parts[sets[one.prompts]])) if one.prompts else one for one in hows]


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


def of(names: Iterable[str], one: str) -> list[str]:
    """The names of a metric among others, one for each way in which it was measured."""
    return sorted(name for name in names if metric(name) == one)


def label(name: str) -> str:
    """What differs in the settings of a name from those of the same metric; "" where nothing does."""
    return name.partition(BEFORE_LABEL)[2]


def _labels(hows: Mapping[tuple[str, ...], How]) -> list[str]:
    """What each of several settings has that not all of them have, in words."""
    common = set.intersection(*map(set, hows))
    differing = {_key(part) for parts in hows for part in parts if part not in common} - {_key(UNKNOWN), _key(PROMPTS)}
    labels = []
    for parts in hows:
        lacking = [] if UNKNOWN in parts else sorted(differing - {_key(part) for part in parts})
        own = [part.removeprefix(PROMPTS) for part in parts if part not in common]
        labels.append(", ".join([*own, *(f"no {key}" for key in lacking)]) or NO_PROMPTS)
    return [one if labels.count(one) == 1 else f"{one} ({number})" for number, one in enumerate(labels, 1)]


def _reward(text, names):
    """(name of a reward, what it is): of "NAME SPEC" or of "NAME.KEY VALUE"."""
    known = max((name for name in names if text.startswith((f"{name} ", f"{name}."))), key=len, default="")
    name = known or text.partition(" ")[0].partition(".")[0]
    return name, text[len(name) :].removeprefix(".").strip()


def _key(part):
    """The key of a setting, without what is below it."""
    return part.partition(" ")[0].partition(".")[0]

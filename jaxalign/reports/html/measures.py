"""What a metric of answers means: how they were drawn and judged belongs to it, so that what differs in that has a name of its own."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import json
from typing import Any, NamedTuple

from jaxalign.reports import wording
from jaxalign.reports.page import ANSWERS
from jaxalign.reports.wording import Setting

REWARD, EXACT, WIN_RATE, CONTROLLED = (f"{ANSWERS}{name}" for name in ("reward", "exact_match", "win_rate", "win_rate_length_controlled"))
RIGHT = EXACT.removeprefix(ANSWERS)  # among the rewards of a sample
BEFORE_LABEL = " · "  # stands between a metric and what differs in its settings
PROMPTS, AGAINST, BY = "prompts", "against", "by"  # keys of settings that `How.of` tells in words of its own
JUDGED = ("rewards", "judge", AGAINST)  # settings that matter for some metrics only
OF_PROMPTS = (PROMPTS, "limit")  # that the prompts themselves tell better
SOURCES = ("path", "hf", "tfds")  # of prompts; a source has one of them
INDIFFERENT = ("samples", "seed", "places", "kl")  # settings that change how exactly a metric is measured, and not what it means
UNKNOWN, NO_PROMPTS = Setting("", "settings not known"), "prompts not known"
DRAWN = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "stop")  # settings that change what is said
SHARED = 0.9  # of their prompts two evaluations share that are of the same ones: a row may be too long for one run, and not for another


class How(NamedTuple):
    """How the answers of an evaluation were drawn and judged."""

    settings: tuple[Setting, ...]  # all of them; empty where they are not known
    drawn: tuple[Setting, ...]  # those that change what is said
    rewards: Mapping[str, str]  # name -> what it is
    decides: str  # the name of the reward that verdicts come from, or the endpoint that gives them; "" where there is none
    opponent: str  # whose answers they were judged beside; "" for nobody's
    prompts: frozenset[str]  # empty where no samples tell
    source: str  # what the prompts are, in words

    def of(self, metric: str) -> tuple[Setting, ...]:
        """The settings that change what a metric means."""
        if not metric.startswith(ANSWERS):
            return ()
        if metric in (WIN_RATE, CONTROLLED):
            return (*self.drawn, Setting(AGAINST, f"{AGAINST} {self.opponent}"), self._by(self.decides))
        name = self.reward(metric)
        return (*self.drawn, self._by(name)) if name else self.drawn

    def reward(self, metric: str) -> str:
        """The name of the reward that a metric is the mean of; "" for other metrics."""
        if metric == REWARD:
            return self.decides if self.decides in self.rewards or len(self.rewards) != 1 else next(iter(self.rewards))
        return RIGHT if metric == EXACT else metric.removeprefix(f"{REWARD}/") if metric.startswith(f"{REWARD}/") else ""

    def _by(self, name):
        return Setting(BY, f"{BY} {self.rewards.get(name, name)}")


def how(settings: Mapping[str, Any] | str, samples: Sequence[Mapping[str, Any]]) -> How:
    """How answers were drawn and judged.

    Args:
      settings: as `config.describe.answers` makes them; empty where they are not known. A text, as older versions wrote it, tells nothing.
      samples: the answers, which tell what their prompts are.
    """
    known = settings if isinstance(settings, Mapping) else {}
    names = samples[0].get("rewards", {}) if samples else {}
    rewards = {name: _spec(spec) for name, spec in known.get("rewards", {}).items()} if known else {name: name for name in names}
    origins = (str(sample["against"].get("from") or "") for sample in samples if sample.get("against"))
    parts, others = tuple(wording.parts(known)), (*JUDGED, *INDIFFERENT, *(OF_PROMPTS if samples else ()))
    return How(
        parts,
        tuple(one for one in parts if one.key not in others) if known else (UNKNOWN,),
        rewards,
        _spec(known.get("judge", "")) or (next(iter(rewards)) if len(rewards) == 1 else ""),
        next(filter(None, origins), known.get(AGAINST, "")),
        frozenset(json.dumps([str(sample["id"]), sample["prompt"]], sort_keys=True) for sample in samples),
        _source(known.get(PROMPTS, {})),
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
        parts[sets[one.prompts]] = Setting(PROMPTS, text + (f", set {words[text]}" if words[text] > 1 else ""))
    return [one._replace(drawn=(*one.drawn, parts[sets[one.prompts]])) if one.prompts else one for one in hows]


def named(measured: Iterable[tuple[str, How]]) -> dict[tuple[str, tuple[Setting, ...]], str]:
    """(metric, its settings) -> its name: the metric, and where it was measured with several settings, what differs in them."""
    variants: dict[str, dict[tuple[Setting, ...], None]] = {}
    for metric, one in measured:
        variants.setdefault(metric, {})[one.of(metric)] = None
    names = {}
    for metric, several in variants.items():
        differing = zip(several, labels(several), strict=True)
        names |= {(metric, parts): metric + (BEFORE_LABEL + differs if differs else "") for parts, differs in differing}
    return names


def metric(name: str) -> str:
    """The metric that a name is of."""
    return name.partition(BEFORE_LABEL)[0]


def of(names: Iterable[str], one: str) -> list[str]:
    """The names of a metric among others, one for each way in which it was measured."""
    return sorted(name for name in names if metric(name) == one)


def labels(variants: Iterable[Sequence[Setting]]) -> list[str]:
    """For each of several settings of a metric what it has that not all of them have, in words; "" where all are the same."""
    all_of_them = [tuple(parts) for parts in variants]
    several = list(dict.fromkeys(all_of_them))
    if len(several) < 2:
        return [""] * len(all_of_them)
    common = set.intersection(*map(set, several))
    differing = {one.key for parts in several for one in parts if one not in common} - {UNKNOWN.key, PROMPTS}
    texts = []
    for parts in several:
        lacking = [] if UNKNOWN in parts else sorted(differing - {one.key for one in parts})
        own = [one.words for one in parts if one not in common]
        texts.append(", ".join([*own, *(f"no {key}" for key in lacking)]) or NO_PROMPTS)
    told = [text if texts.count(text) == 1 else f"{text} ({number})" for number, text in enumerate(texts, 1)]
    return [told[several.index(parts)] for parts in all_of_them]


def label(name: str) -> str:
    """What differs in the settings of a name from those of the same metric; "" where nothing does."""
    return name.partition(BEFORE_LABEL)[2]


def _spec(spec):
    """A reward or a judge in words."""
    return " ".join(one.words for one in wording.parts(spec)) if isinstance(spec, Mapping) else spec


def _source(prompts):
    """Where prompts come from, in words."""
    source = next((prompts[key] for key in SOURCES if prompts.get(key)), None) if isinstance(prompts, Mapping) else prompts
    names = source if isinstance(source, list) else [source] if source else []
    return ", ".join(str(name).rpartition("/")[2] for name in names) or "the held-out rows"

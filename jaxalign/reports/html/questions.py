"""By which metrics configurations are ranked, what each of them reached, and what can be compared prompt by prompt."""

from collections.abc import Mapping, Sequence
import math
from pathlib import Path
import re
from typing import NamedTuple

import numpy as np

from jaxalign.reports import comparison, differences
from jaxalign.reports.differences import Difference
from jaxalign.reports.estimates import MISSING, Estimate, change
from jaxalign.reports.html.contents import Entry, Evaluation
from jaxalign.reports.intervals import wilson
from jaxalign.reports.page import ANSWERS

REWARD, EXACT, WIN_RATE, CONTROLLED = (f"{ANSWERS}{name}" for name in ("reward", "exact_match", "win_rate", "win_rate_length_controlled"))
CHANCE = TIE = 0.5  # of accuracy and of win rates; the verdict of a tie
RIGHT = "exact_match"  # among the rewards of a sample; it has a metric of its own
PARTS = re.compile(r"[;,] ")  # between the parts of a setting
DRAWN = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "stop")  # settings of answers that change what a reward means
SHARED = 0.9  # of their prompts two sides must share to be compared prompt by prompt
ROUNDING = 1e-5  # of rewards in files of samples
REFERENCE, CHOSEN = "reference", "chosen"  # as an evaluation calls the model that the run started from, and the answers of the data


class Side(NamedTuple):
    """What one configuration reached."""

    entry: Entry
    ends: list[Estimate]  # the metric of each seed at its end

    @property
    def mean(self) -> float:
        """Over seeds."""
        return sum(end.value for end in self.ends) / len(self.ends)


class Question(NamedTuple):
    """A metric by which configurations are ranked; more is better."""

    metric: str
    what: str  # in words
    sides: list[Side]  # the best first
    chance: float | None  # what guessing reaches

    @property
    def is_share(self) -> bool:
        """Whether the metric is a share of prompts, 0 to 1; a reward may have any value."""
        return not self.metric.startswith(REWARD)


class Duel(NamedTuple):
    """Answers of a configuration that were judged beside those of an opponent."""

    entry: Entry
    opponent: str
    rate: Difference  # win rate, a tie counting half
    ties: float  # their share; NaN where the verdicts are not there
    at_equal_length: float  # the win rate; NaN where it was not measured
    settings: str = ""  # how the answers were drawn and judged

    @property
    def direct(self) -> bool:
        """Whether the opponent is another run or model, rather than its own start or the answers of the data."""
        return self.opponent not in (REFERENCE, CHOSEN)

    @property
    def sign(self) -> int:
        """1 where the configuration is better, -1 where the opponent is, 0 where it cannot be told."""
        return 1 if self.rate.low > CHANCE else -1 if self.rate.high < CHANCE else 0


def questions(entries: Sequence[Entry]) -> list[Question]:
    """The metrics that rank at least one configuration, the most telling first: rewards of answers, exact match, held-out accuracy."""
    rows = [(entry, row) for entry in entries if (row := entry.row()).runs]
    names = {name for _, row in rows for lines in row.runs.values() for name in lines[-1][1]}
    rewards = sorted(name for name in names if name.startswith(f"{REWARD}/")) or [REWARD] * (REWARD in names)
    accuracy = [name for name in comparison.headline([row for _, row in rows]) if name.endswith("accuracy")]
    asked = [(name, f"reward of generated answers{name.removeprefix(REWARD).replace('/', ', ')}", None) for name in rewards]
    asked += [(EXACT, "share of generated answers that are right", None)] if EXACT in names else []
    asked += [(name, "held-out accuracy", CHANCE) for name in accuracy]
    found = []
    for metric, what, chance in asked:
        sides = sorted((Side(entry, ends) for entry, row in rows if (ends := row.last(metric))), key=lambda side: -side.mean)
        kinds = {_kind(side.entry, metric) for side in sides}
        for kind in sorted(kinds):  # a reward of another kind, or an accuracy that means something else, is another question
            same = [side for side in sides if _kind(side.entry, metric) == kind]
            found.append(Question(metric, what + (f", {kind}" if kind and len(kinds) > 1 else ""), same, chance))
    return found


def duels(entries: Sequence[Entry]) -> list[Duel]:
    """The direct comparisons that were judged: of each seed the last against an opponent, all seeds together."""
    evaluations: dict[tuple[int, str], list[Evaluation]] = {}
    for number, run in [(entry.number, run) for entry in entries for run in entry.runs]:
        judged = [one for one in run.evaluations if 0 <= one.checkpoint.get(WIN_RATE, MISSING).value <= 1]
        for opponent, one in {_opponent(entries, one): one for one in judged}.items():
            evaluations.setdefault((number, opponent), []).append(one)
    by_number = {entry.number: entry for entry in entries}
    found = []
    for (number, opponent), seeds in evaluations.items():
        verdicts = [sample["verdict"] for one in seeds for sample in one.samples if sample.get("verdict") is not None]
        controlled = [one.checkpoint[CONTROLLED].value for one in seeds if CONTROLLED in one.checkpoint]
        ties, rate = [verdict == TIE for verdict in verdicts], _win_rate([one.checkpoint[WIN_RATE] for one in seeds])
        how = ", ".join(part for part in PARTS.split(seeds[-1].settings) if _key(part) in (*DRAWN, "samples", "judge", "rewards"))
        found.append(Duel(by_number[number], opponent, rate, _mean(ties), _mean(controlled), how))
    return found


def gap(question: Question, first: Side, second: Side, *, level: float) -> Difference:
    """The lead of the first side, prompt by prompt where the samples of both have these rewards on the same prompts."""
    paired = paired_rewards(first.entry, second.entry, question.metric) if question.metric.startswith(REWARD) else None
    return _between(first.ends, second.ends, paired, share=question.is_share, level=level)


def on_other_prompts(question: Question) -> bool:
    """Whether what the sides reached was measured on different prompts, as far as their samples and summaries tell."""
    if question.metric.startswith(ANSWERS):
        measured = [{(str(one["id"]), str(one["prompt"])) for run in side.entry.runs for one in run.samples} for side in question.sides]
    else:
        facts = [side.entry.facts.get("data", {}) for side in question.sides]
        measured = [
            {role: (rows.get("source"), rows.get("prompts")) for role, rows in one.items() if role.startswith("held")} for one in facts
        ]
    measured = [one for one in measured if one]
    return any(one != measured[0] for one in measured)


def other_settings(question: Question) -> list[str]:
    """How the answers of each side were drawn and scored, where that differs: "NAME with KEY VALUE, ..." each."""
    name = question.metric.removeprefix(REWARD).removeprefix("/") if question.metric.startswith(REWARD) else RIGHT
    known = {}
    for side in question.sides:
        reward = name or _only_reward(side.entry)
        evaluations = [one for run in side.entry.finished() if (one := _measured(run, question.metric))]
        known[side.entry.name] = next((one.settings for one in evaluations if one.settings), ""), (f"rewards.{reward}", reward)
    return differing(known)


def differing(settings: Mapping[str, tuple[str, Sequence[str]]]) -> list[str]:
    """What differs in how answers were drawn: "NAME with KEY VALUE, ..." each. Of settings that are not known nothing is told.

    Args:
      settings: name -> (how they were drawn and judged, keys that matter beside DRAWN).
    """
    known = {
        name: [part for part in PARTS.split(how) if f"{part.partition(' ')[0]}.".startswith(tuple(f"{key}." for key in (*DRAWN, *keys)))]
        for name, (how, keys) in settings.items()
        if how
    }
    own = {name: [part for part in parts if any(part not in other for other in known.values())] for name, parts in known.items()}
    return [f"{name} with {', '.join(parts)}" for name, parts in own.items() if parts]


def other_starts(question: Question) -> list[str]:
    """The models that the sides of a held-out accuracy started from, where they are different ones: their log-probs are its measure."""
    models = [side.entry.facts.get("settings", {}).get("model", "").partition(";")[0] for side in question.sides]
    models = list(dict.fromkeys(filter(None, models)))
    return models if len(models) > 1 and not question.metric.startswith(ANSWERS) else []


def _measured(run, metric) -> Evaluation | None:
    """The evaluation that the last value of a metric is of."""
    end = run.held_out[-1][1].get(metric, MISSING).value
    return next((one for one in run.evaluations if one.checkpoint.get(metric, MISSING).value == end), None)


def _kind(entry, metric) -> str:
    """What a metric is of, where its name does not tell: which reward, or an accuracy without a reference."""
    if metric == REWARD:
        return _only_reward(entry)
    rule = entry.facts.get("settings", {}).get("reference", "").partition(",")[0]
    return "without a reference" if not metric.startswith(ANSWERS) and rule == "none" else ""


def _key(part) -> str:
    """The key of a part of a setting, without what is below it."""
    return part.partition(" ")[0].partition(".")[0]


def since_start(question: Question, side: Side) -> tuple[float, Difference] | None:
    """(the metric before training, its change); None where the start was not measured."""
    measured = [run for run in side.entry.finished() if math.isfinite(comparison.value(run.held_out[-1][1], question.metric).value)]
    first = [comparison.value(dict(run.held_out).get(0, {}), question.metric) for run in measured]
    if not all(math.isfinite(one.value) for one in first):
        return None
    evaluations = [one for run in measured for one in run.evaluations[-1:]]
    changes = [one.change[question.metric] for one in evaluations if question.metric in one.change]
    paired = _over_seeds(changes) if len(changes) == len(side.ends) else None
    return Side(side.entry, first).mean, _between(side.ends, first, paired, share=question.is_share, level=differences.LEVEL)


def _between(first, second, paired: Estimate | None, *, share, level) -> Difference:
    """The difference, with the error of the paired one where that is of the same: an evaluation may be of other prompts or rewards."""
    one = differences.between(first, second, share=share, level=level)
    same = paired is not None and abs(paired.value - one.value) <= 0.1 * paired.se + ROUNDING
    return differences.between(first, second, paired, share=share, level=level) if same else one


def paired_rewards(first: Entry, second: Entry, metric: str) -> Estimate | None:
    """The lead of the first in a reward, prompt by prompt; None where they share few prompts: a reward may fail on some answers.

    A metric "generate/reward" without a name is that of the only reward there is.
    """
    sides = [_by_prompt(entry, metric) for entry in (first, second)]
    common = [key for key in sides[0] if key in sides[1]]
    if not common or len(common) < SHARED * max(map(len, sides)):
        return None
    return change(*((np.array([side[key] for key in common]), np.ones(len(common))) for side in reversed(sides)))


def _by_prompt(entry, metric):
    """(id, prompt) -> mean reward over samples and seeds."""
    name, values_by_prompt = metric.removeprefix(REWARD).removeprefix("/"), {}
    for sample in (sample for run in entry.runs for sample in run.samples):
        value = sample.get("rewards", {}).get(name or _only_reward(entry))
        if value is not None:
            values_by_prompt.setdefault((str(sample["id"]), str(sample["prompt"])), []).append(value)
    return {key: sum(values) / len(values) for key, values in values_by_prompt.items()}


def _over_seeds(changes: list[Estimate]) -> Estimate:
    """The mean change; the seeds share their prompts, so that its error is the mean of theirs."""
    values, errors, counts = zip(*changes, strict=True)
    return Estimate(sum(values) / len(values), sum(errors) / len(errors), min(counts))


def _only_reward(entry) -> str:
    """The name of the only reward that the samples have; "" where there are several or none."""
    names = {name for run in entry.runs for sample in run.samples[:1] for name in sample.get("rewards", {}) if name != RIGHT}
    return names.pop() if len(names) == 1 else ""


def _opponent(entries, evaluation: Evaluation) -> str:
    """Whom the answers were judged beside."""
    named = (sample["against"].get("from") for sample in evaluation.samples if sample.get("against"))
    return called(entries, str(next(filter(None, named), "its opponent")))


def called(entries: Sequence[Entry], opponent: str) -> str:
    """A configuration of this report by its name; others as the evaluation calls them."""
    path, at, step = opponent.partition("@")
    parts = Path(path.removesuffix("/export")).parts
    own = (entry.name for entry in entries for run in entry.runs if parts and run.folder.resolve().parts[-len(parts) :] == parts)
    return next((name + at + step for name in own), opponent)


def _win_rate(seeds: list[Estimate]) -> Difference:
    """The mean of several seeds with Student's interval, or of one seed with Wilson's."""
    if len(seeds) > 1:
        return differences.mean(seeds, share=True)
    return Difference(seeds[0].value, *wilson(seeds[0].value, seeds[0].n), seeds=1, prompts=seeds[0].n)


def _mean(values):
    return sum(values) / len(values) if values else math.nan

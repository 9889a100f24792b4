"""By which metrics configurations are ranked, what each of them reached, and what can be compared prompt by prompt."""

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import NamedTuple

import numpy as np

from jaxalign.reports import comparison, differences
from jaxalign.reports.differences import Difference
from jaxalign.reports.estimates import MISSING, Estimate, change
from jaxalign.reports.html import measures
from jaxalign.reports.html.contents import Entry, Evaluation
from jaxalign.reports.html.measures import AGAINST, CONTROLLED, DRAWN, EXACT, REWARD, SHARED, WIN_RATE, How, of
from jaxalign.reports.intervals import wilson
from jaxalign.reports.page import ANSWERS

CHANCE = TIE = 0.5  # of accuracy and of win rates; the verdict of a tie
OWN = REFERENCE, CHOSEN = "reference", "chosen"  # as an evaluation calls the model that the run started from, and the answers of the data


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
        return not measures.metric(self.metric).startswith(REWARD)


class Duel(NamedTuple):
    """Answers of a configuration that were judged beside those of an opponent."""

    entry: Entry
    opponent: str
    label: str  # what differs in its settings from those of other comparisons
    rate: Difference  # win rate, a tie counting half
    ties: float  # their share; NaN where the verdicts are not there
    at_equal_length: float  # the win rate; NaN where it was not measured
    settings: str = ""  # how the answers were drawn and judged

    @property
    def direct(self) -> bool:
        """Whether the opponent is another run or model, rather than its own start or the answers of the data."""
        return self.opponent not in OWN

    @property
    def sign(self) -> int:
        """1 where the configuration is better, -1 where the opponent is, 0 where it cannot be told."""
        return 1 if self.rate.low > CHANCE else -1 if self.rate.high < CHANCE else 0


def questions(entries: Sequence[Entry]) -> list[Question]:
    """The metrics that rank at least one configuration, the most telling first: rewards of answers, exact match, held-out accuracy.

    A metric that was measured with several settings is as many questions, first that of most configurations.
    """
    rows = [(entry, row) for entry in entries if (row := entry.row()).runs]
    names = {name for _, row in rows for lines in row.runs.values() for name in lines[-1][1]}
    asked = [(name, _worth(name), None) for name in rewards(entries, names)]
    asked += [(name, _worded("share of generated answers that are right", name), None) for name in of(names, EXACT)]
    asked += [(name, "held-out accuracy", CHANCE) for name in comparison.headline([row for _, row in rows]) if name.endswith("accuracy")]
    found = []
    for metric, what, chance in asked:
        sides = sorted((Side(entry, ends) for entry, row in rows if (ends := row.last(metric))), key=lambda side: -side.mean)
        kinds = {_kind(side.entry, metric) for side in sides}
        for kind in sorted(kinds):  # an accuracy that means something else is another question
            same = [side for side in sides if _kind(side.entry, metric) == kind]
            found.append(Question(metric, what + (f", {kind}" if kind and len(kinds) > 1 else ""), same, chance))
    order = list(dict.fromkeys(measures.metric(one.metric) for one in found))
    return sorted(found, key=lambda one: (order.index(measures.metric(one.metric)), -len(one.sides)))


def rewards(entries: Sequence[Entry], names: Iterable[str]) -> list[str]:
    """The names of rewards; the one that verdicts come from is REWARD, whatever it is called, so that it is left out beside that."""
    by_name = {}  # name of a reward -> whether it is REWARD, for each evaluation
    for one in (one for entry in entries for run in entry.runs for one in run.evaluations):
        for name in (name for name in one.checkpoint if measures.metric(name).startswith(f"{REWARD}/")):
            by_name.setdefault(name, []).append(one.how.reward(measures.metric(name)) == one.how.decides)
    others = [name for name in names if measures.metric(name).startswith(f"{REWARD}/") and not all(by_name.get(name, [False]))]
    return [*of(names, REWARD), *sorted(others)]


def duels(entries: Sequence[Entry]) -> list[Duel]:
    """The direct comparisons that were judged: of each seed the last against an opponent with the same settings, all seeds together."""
    evaluations: dict[tuple[int, str, str], list[Evaluation]] = {}
    for number, run in [(entry.number, run) for entry in entries for run in entry.runs]:
        judged = [(name, one) for one in run.evaluations for name in of(one.checkpoint, WIN_RATE) if 0 <= one.checkpoint[name].value <= 1]
        for (opponent, name), one in {(one.how.opponent or "its opponent", name): one for name, one in judged}.items():
            evaluations.setdefault((number, opponent, name), []).append(one)
    by_number = {entry.number: entry for entry in entries}
    alike = {key[1:]: [one for one in seeds[-1].how.of(WIN_RATE) if one.key != AGAINST] for key, seeds in evaluations.items()}
    labels = dict(zip(alike, measures.labels(alike.values()), strict=True))
    found = []
    for (number, opponent, name), seeds in evaluations.items():
        verdicts = [sample["verdict"] for one in seeds for sample in one.samples if sample.get("verdict") is not None]
        controlled = [one.checkpoint[even].value for one in seeds for even in of(one.checkpoint, CONTROLLED)]
        ties, rate = [verdict == TIE for verdict in verdicts], _win_rate([one.checkpoint[name] for one in seeds])
        how = ", ".join(one.words for one in seeds[-1].how.settings if one.key in (*DRAWN, "samples", "judge", "rewards"))
        shown = {label for (other, _), label in labels.items() if (other in OWN) is (opponent in OWN)}  # in one chart
        label = labels[opponent, name] if len(shown) > 1 else ""
        found.append(Duel(by_number[number], opponent, label, rate, _mean(ties), _mean(controlled), how))
    return found


def gap(question: Question, first: Side, second: Side, *, level: float) -> Difference:
    """The lead of the first side, prompt by prompt where the samples of both have these rewards."""
    paired = None if question.is_share else paired_rewards(first.entry, second.entry, question.metric)
    return differences.between(first.ends, second.ends, paired, share=question.is_share, level=level)


def on_other_prompts(question: Question) -> bool:
    """Whether a held-out accuracy was measured on different prompts, as far as the summaries tell; answers to others have another name."""
    if question.metric.startswith(ANSWERS):
        return False
    facts = [side.entry.facts.get("data", {}) for side in question.sides]
    measured = [{role: (rows.get("source"), rows.get("prompts")) for role, rows in one.items() if role.startswith("held")} for one in facts]
    measured = [one for one in measured if one]
    return any(one != measured[0] for one in measured)


def differing(hows: Mapping[str, How]) -> list[str]:
    """What differs in how answers were drawn: "NAME with KEY VALUE, ..." each. Of settings that are not known nothing is told."""
    known = {name: [one for one in how.settings if one.key in DRAWN] for name, how in hows.items() if how.settings}
    own = {name: [one.words for one in parts if any(one not in other for other in known.values())] for name, parts in known.items()}
    return [f"{name} with {', '.join(words)}" for name, words in own.items() if words]


def other_starts(question: Question) -> list[str]:
    """The models that the sides of a held-out accuracy started from, where they are different ones: their log-probs are its measure."""
    models = [side.entry.facts.get("settings", {}).get("model", "").partition(";")[0] for side in question.sides]
    models = list(dict.fromkeys(filter(None, models)))
    return models if len(models) > 1 and not question.metric.startswith(ANSWERS) else []


def _worth(name):
    return _worded(f"reward of generated answers{measures.metric(name).removeprefix(REWARD).replace('/', ', ')}", name)


def _worded(what, name):
    return ", ".join(filter(None, (what, measures.label(name))))


def _kind(entry, metric) -> str:
    """What an accuracy is of, where its name does not tell: whether there is a reference."""
    rule = entry.facts.get("settings", {}).get("reference", "").partition(",")[0]
    return "without a reference" if not metric.startswith(ANSWERS) and rule == "none" else ""


def since_start(question: Question, side: Side) -> tuple[float, Difference] | None:
    """(the metric before training, its change); None where the start was not measured."""
    measured = [run for run in side.entry.finished() if math.isfinite(comparison.value(run.held_out[-1][1], question.metric).value)]
    first = [comparison.value(dict(run.held_out).get(0, {}), question.metric) for run in measured]
    if not all(math.isfinite(one.value) for one in first):
        return None
    ends = [comparison.value(run.held_out[-1][1], question.metric) for run in measured]
    changes = [_change(run, question.metric, *pair) for run, *pair in zip(measured, first, ends, strict=True)]
    paired = _over_seeds(changes) if None not in changes else None
    change = differences.between(side.ends, first, paired, share=question.is_share, level=differences.LEVEL)
    return Side(side.entry, first).mean, change


def _change(run, metric, first: Estimate, end: Estimate) -> Estimate | None:
    """The change between these two values as an evaluation measured it prompt by prompt; None where none did."""
    there = (one for one in reversed(run.evaluations) if metric in one.change)
    ends = ((one, one.start.get(metric, MISSING).value, one.checkpoint.get(metric, MISSING).value) for one in there)
    return next((one.change[metric] for one, *values in ends if values == [first.value, end.value]), None)


def paired_rewards(first: Entry, second: Entry, metric: str) -> Estimate | None:
    """The lead of the first in a reward, prompt by prompt; None where they share few prompts: a reward may fail on some answers."""
    sides = [_by_prompt(entry, metric) for entry in (first, second)]
    common = [key for key in sides[0] if key in sides[1]]
    if not common or len(common) < SHARED * max(map(len, sides)):
        return None
    return change(*((np.array([side[key] for key in common]), np.ones(len(common))) for side in reversed(sides)))


def _by_prompt(entry, metric):
    """(id, prompt) -> mean reward over samples and seeds."""
    evaluations = [one for run in entry.finished() if (one := run.measured(metric))]
    values_by_prompt: dict[tuple[str, str], list[float]] = {}
    for sample, name in ((sample, one.how.reward(measures.metric(metric))) for one in evaluations for sample in one.samples):
        if (value := sample.get("rewards", {}).get(name)) is not None:
            values_by_prompt.setdefault((str(sample["id"]), str(sample["prompt"])), []).append(value)
    return {key: sum(values) / len(values) for key, values in values_by_prompt.items()}


def _over_seeds(changes: list[Estimate]) -> Estimate:
    """The mean change; the seeds share their prompts, so that its error is the mean of theirs."""
    values, errors, counts = zip(*changes, strict=True)
    return Estimate(sum(values) / len(values), sum(errors) / len(errors), min(counts))


def _win_rate(seeds: list[Estimate]) -> Difference:
    """The mean of several seeds with Student's interval, or of one seed with Wilson's."""
    if len(seeds) > 1:
        return differences.mean(seeds, share=True)
    return Difference(seeds[0].value, *wilson(seeds[0].value, seeds[0].n), seeds=1, prompts=seeds[0].n)


def _mean(values):
    return sum(values) / len(values) if values else math.nan

"""The answer that a report begins with: which configuration is better, by how much, and whether that can be told."""

from collections.abc import Iterable, Iterator, Sequence
import math

from jaxalign.reports import differences
from jaxalign.reports.alarms import falling
from jaxalign.reports.differences import Difference
from jaxalign.reports.html import charts, measures
from jaxalign.reports.html.contents import Entry
from jaxalign.reports.html.markup import Markup, folded, join, tag
from jaxalign.reports.html.questions import (
    CHANCE,
    CHOSEN,
    REFERENCE,
    Duel,
    Question,
    Side,
    duels,
    gap,
    on_other_prompts,
    other_starts,
    questions,
    since_start,
)
from jaxalign.reports.page import ANSWERS

OPPONENTS = {REFERENCE: "the model it started from", CHOSEN: "the chosen answers"}  # in words
LISTED = 6  # names in a sentence
NOT_TOLD = tag("b", "cannot be told")


def section(entries: Sequence[Entry]) -> Markup:
    """Sentences, the most telling first, each with the intervals behind it."""
    judged, asked = duels(entries), questions(entries)
    if not judged and not asked:
        flag = tag("code", "python -m jaxalign.evaluate --against")
        ways = ("Set ", tag("code", "data.eval"), " to a file with pairs, or compare what the models say with ", flag, ".")
        return tag("p", "Nothing was measured that ranks these runs, so which is better ", NOT_TOLD, ". ", *ways, class_="verdict")
    direct, others = ([duel for duel in judged if duel.direct is one] for one in (True, False))
    of_answers, held_out = ([one for one in asked if one.metric.startswith(ANSWERS) is kind] for kind in (True, False))
    first = [one for one in of_answers if not any(_ranks_more(other, one) for other in of_answers)]
    rest = [_ranking(question, entries) for question in of_answers if question not in first]
    return join(
        _duels(direct),
        *(_ranking(question, entries) for question in first),
        folded(f"{len(rest)} more, with other settings", *rest) if rest else None,
        *_apart(of_answers),
        _duels(others),
        *(_ranking(question, entries) for question in held_out),
        *map(_alarm, entries),
    )


def listed(parts: Sequence[str], word: str = " and ") -> str:
    """The first LISTED of the parts in a sentence, and how many more there are."""
    shown = [*parts] if len(parts) <= LISTED else [*parts[: LISTED - 1], f"{len(parts) - LISTED + 1} more"]
    return word.join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def _alarm(entry: Entry) -> Markup | None:
    """What a reader must not overlook, of the first seed that it is true of, and of how many it is."""
    alarms = [found for run in entry.runs if run.held_out and (found := falling(dict(run.held_out).get(0, {}), run.held_out[-1][1]))]
    if not alarms:
        return None
    seeds = f" ({len(alarms)} of {len(entry.runs)} seeds)" if len(entry.runs) > 1 else ""
    return tag("p", tag("b", f"{entry.name}{seeds}: "), " ".join(alarms[0]), class_="notice")


def _duels(judged: list[Duel]) -> Markup | None:
    if not judged:
        return None
    rows = [charts.Interval(_pair(duel), duel.entry.number, *_ends(duel.rate)) for duel in judged]
    label = "win rate with its 95 % interval, a tie counting half; the dotted line is a draw"
    return _finding(map(_won, judged), charts.intervals(rows, label=label, line=CHANCE))


def _pair(duel: Duel) -> str:
    return f"{duel.entry.name} against {_named(duel)}{f' ({duel.label})' if duel.label else ''}"


def _named(duel: Duel) -> str:
    return OPPONENTS.get(duel.opponent, duel.opponent)


def _won(duel: Duel) -> Markup:
    name, other, rate = duel.entry.name, _named(duel), duel.rate
    told = {1: tag("b", f"{name} is better than {other}"), -1: tag("b", f"{name} is worse than {other}")}
    head = told.get(duel.sign) or join(f"Whether {name} is better than {other} ", NOT_TOLD)
    interval = f"95 % interval {_share(rate.low)} to {_share(rate.high)}" if math.isfinite(rate.low) else "too few prompts for an interval"
    ties = f"; {_share(duel.ties)} are ties" if duel.ties > 0 else ""
    length = f", and would win {_share(duel.at_equal_length)} at equal length" if math.isfinite(duel.at_equal_length) else ""
    how = f" Settings: {duel.settings}." if duel.settings else ""
    return join(head, f": it wins {_share(rate.value)} ({interval}{ties}){length}.{how}")


def _ranking(question: Question, entries: Sequence[Entry]) -> Markup:
    means = [differences.mean(side.ends, share=question.is_share) for side in question.sides]
    rows = [charts.Interval(side.entry.name, side.entry.number, *_ends(one)) for side, one in zip(question.sides, means, strict=True)]
    whose = "other seeds and other prompts" if any(one.seeds > 1 for one in means) else "other prompts; one seed each"
    chance = f"; the dotted line is chance, {question.chance:g}" if question.chance is not None else ""
    label = f"{question.what}, with the 95 % interval for {whose}{chance}"
    sentence = _compared(question) if len(question.sides) > 1 else _alone(question, question.sides[0])
    lacking = [entry.name for entry in entries if not entry.row().last(question.metric)]
    without = f" It was not measured for {listed(lacking)}." if lacking else None
    return _finding([join(sentence, without)], charts.intervals(rows, label=label, line=question.chance))


def _ranks_more(one: Question, other: Question) -> bool:
    """Whether one question ranks all configurations that another one of the same metric ranks with other settings, and further ones."""
    sides = [{side.entry.number for side in question.sides} for question in (one, other)]
    return measures.metric(one.metric) == measures.metric(other.metric) and sides[0] > sides[1]


def _apart(asked: Sequence[Question]) -> Iterator[Markup]:
    """Who cannot be ranked by a metric of answers, as these were drawn or judged otherwise: a sentence for each such metric."""
    for metric, same in {measures.metric(one.metric): [] for one in asked}.items():
        same += [one for one in asked if measures.metric(one.metric) == metric]
        whose = [[side.entry.name for side in one.sides] for one in same]
        if max(map(len, whose)) < len({name for names in whose for name in names}):
            ways = "; ".join(f"{listed(names)}: {measures.label(one.metric)}" for one, names in zip(same, whose, strict=True))
            flags = ("; evaluate all with the same flags of ", tag("code", "python -m jaxalign.evaluate"), " to rank them.")
            told = ("Answers that were drawn or judged in different ways are not compared in ", tag("code", metric), f" ({ways})", *flags)
            yield tag("p", *told, class_="verdict")


def _compared(question: Question) -> Markup:
    """The best side against all others; the intervals of all possible comparisons hold together, as the best was not known before."""
    best, *others = question.sides
    comparisons = math.comb(len(question.sides), 2)
    gaps = [(side, gap(question, best, side, level=differences.simultaneous(comparisons))) for side in others]
    beaten = [f"{side.entry.name} by {_by(one, best, side)}" for side, one in gaps if one.sign > 0]
    undecided = [f"{side.entry.name} (it leads by {_by(one, best, side)})" for side, one in gaps if one.sign <= 0]
    name, note = best.entry.name, " All intervals hold together in 95 of 100 cases." if comparisons > 1 else ""
    note += " They were measured on different prompts." if on_other_prompts(question) else ""
    if models := other_starts(question):
        note += f" They started from different models, {listed(models)}, so that their accuracy is measured against different ones."
    if not beaten:
        return join(f"Which has the best {question.what} ", NOT_TOLD, f": {name} leads ",
                    listed([f"{side.entry.name} by {_by(one, best, side)}" for side, one in gaps]), ".", note)  # fmt: skip
    rest = join(" Whether it is better than ", listed(undecided, " or "), " ", NOT_TOLD, ".") if undecided else None
    return join(tag("b", f"{name} is better"), f" in {question.what}: it beats {listed(beaten)}.", rest, note)


def _alone(question: Question, side: Side) -> Markup:
    name, changed = side.entry.name, since_start(question, side)
    if changed is None:
        reached = _ends(differences.mean(side.ends, share=question.is_share))[-1]
        return join(f"{name} reached {reached} in {question.what}; its start was not measured, so what training did ", NOT_TOLD, ".")
    started, one = changed
    told = {1: tag("b", f"{name} is better than at its start"), -1: tag("b", f"{name} is worse than at its start")}
    head = told.get(one.sign) or join(f"Whether {name} is better than at its start ", NOT_TOLD)
    return join(head, f": {question.what} went from {started:.4g} to {side.mean:.4g}, by {_by(one, side)}.")


def _finding(sentences: Iterable[Markup], picture: Markup) -> Markup:
    """Sentences beside the intervals behind them."""
    return tag("div", tag("div", *(tag("p", sentence, class_="verdict") for sentence in sentences)), picture, class_="finding")


def _share(value: float) -> str:
    return f"{min(max(value, 0.0), 1.0):.1%}".replace("%", "\N{NO-BREAK SPACE}%")


def _ends(one: Difference) -> tuple[float, float, float, str]:
    """(value, low, high, a text of them: "0.640 (0.575 to 0.705; 3 seeds, 214 prompts)")."""
    digits = _digits(one)
    interval = f"{one.low:.{digits}f} to {one.high:.{digits}f}; " if math.isfinite(one.low) else ""
    seeds = f"{one.seeds} seeds, " if one.seeds > 1 else ""
    text = f"{one.value:.{digits}f} ({interval}{seeds}{one.prompts:,} prompt{'s' if one.prompts != 1 else ''})"
    return one.value, one.low, one.high, text.replace("-", "−")


def _by(one: Difference, *sides: Side) -> str:
    """A difference with its interval: "0.12 (0.03 to 0.21)", and of how many prompts where a side was measured on more."""
    digits = _digits(one)
    interval = f"{one.low:.{digits}f} to {one.high:.{digits}f}" if math.isfinite(one.low) else "too few prompts for an interval"
    fewer = one.paired and one.prompts < max(end.n for side in sides for end in side.ends)
    on = f", on the {one.prompts:,} prompts that have both" if fewer else ""
    return f"{one.value:.{digits}f} ({interval.replace('-', '−')}{on})".replace("-", "−", 1)


def _digits(one: Difference) -> int:
    """Digits after the point that show two figures of the interval."""
    half = (one.high - one.low) / 2
    return min(max(1 - math.floor(math.log10(half)), 0), 6) if half > 0 else 3

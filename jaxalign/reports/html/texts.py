"""What the models say: generated answers side by side with their scores, and held-out answers with their log-probs before and after."""

import collections
from collections.abc import Sequence
import math
from typing import Any

from jaxalign.reports.html.charts import colour
from jaxalign.reports.html.contents import Entry, Evaluation, called
from jaxalign.reports.html.markup import Markup, folded, join, table, tag
from jaxalign.reports.html.questions import CHOSEN, REFERENCE, differing

SHOWN, FOLDED = 5, 20  # prompts, spread evenly over those that all configurations answered
LETTERS = 1200  # shown of a text
VERDICTS = {1: ("won", "won"), 0.5: ("tie", None), 0: ("lost", "lost")}  # verdict -> (word, CSS class)


def generated(entries: Sequence[Entry]) -> Markup | None:
    """The first answer of each configuration to prompts that all of them answered; None where none has samples."""
    evaluations = _shown(entries)
    answered = [(entry, _first_answers(evaluations[entry.number])) for entry in entries if entry.number in evaluations]
    if not answered:
        return None
    common = [key for key in answered[0][1] if all(key in answers for _, answers in answered)]
    if not common:
        return tag("p", "The configurations answered different prompts, so that no answers stand side by side.")
    places = sorted({round(i * (len(common) - 1) / max(SHOWN + FOLDED - 1, 1)) for i in range(SHOWN + FOLDED)})
    shown = places[:: max(math.ceil(len(places) / SHOWN), 1)]
    prompts = {i: _prompt(common[i][1], [(entry, answers[common[i]]) for entry, answers in answered], entries) for i in places}
    note = f"Of {len(common):,} prompts, spread evenly, not chosen by hand; the first answer of the first seed to each."
    drawn = differing({entry.name: evaluations[entry.number].how for entry, _ in answered})
    note += f" They were drawn otherwise: {'; '.join(drawn)}." if drawn else ""
    rest = [prompts[i] for i in places if i not in shown]
    return join(
        tag("p", note, class_="soft"),
        *(prompts[i] for i in shown),
        folded(f"{len(rest)} more prompts", *rest) if rest else None,
    )


def followed(entries: Sequence[Entry]) -> Markup | None:
    """Held-out prompts and the log-probs of their answers before and after training, for each configuration; None where there are none."""
    prompts: dict[str, dict[str, tuple[str, dict[int, str]]]] = {}  # prompt -> answer -> (what it is, its log-probs by configuration)
    for entry in entries:
        for sample in entry.facts.get("samples", []):
            for response in sample["responses"]:
                _, cells = prompts.setdefault(sample["prompt"], {}).setdefault(response["text"], (response["what"], {}))
                cells[entry.number] = _change(response["before"], response["after"])
    if not prompts:
        return None
    parts = []
    for prompt, responses in prompts.items():
        there = [entry for entry in entries if any(entry.number in cells for _, cells in responses.values())]
        rows = [[what, _cut(text), *(cells.get(entry.number, "–") for entry in there)] for text, (what, cells) in responses.items()]
        columns = ["answer", "text", *(entry.name for entry in there)]
        parts.append(tag("div", tag("p", _cut(prompt), class_="prompt"), table(columns, rows, name="texts"), class_="sample"))
    note = "Log-probability of the whole answer in nats before and after training, first seed."
    return join(tag("p", note, class_="soft"), *parts)


def _shown(entries) -> dict[int, Evaluation]:
    """Number of a configuration -> the evaluation whose answers are shown, of the first seed and the last step that have some.

    It is the newest of those whose answers were drawn as those of most configurations, else the newest.
    """
    spoken = {}
    for entry in entries:
        own = next((own for run in entry.runs if (own := [one for one in reversed(run.evaluations) if one.samples])), [])
        spoken |= {entry.number: [one for one in own if one.step == own[0].step]} if own else {}
    counts = collections.Counter(drawn for own in spoken.values() for drawn in dict.fromkeys(one.how.drawn for one in own))
    return {number: max(own, key=lambda one: counts[one.how.drawn]) for number, own in spoken.items()}


def _first_answers(one: Evaluation) -> dict[tuple[str, str], dict]:
    """(id, prompt) -> the first answer."""
    answers: dict[tuple[str, str], dict] = {}
    for sample in one.samples:
        answers.setdefault((str(sample["id"]), _said(sample["prompt"])), sample)
    return answers


def _said(prompt: Any) -> str:
    """A prompt as text; of messages, each after its role."""
    if isinstance(prompt, list):
        return "\n".join(f"{turn.get('role', '')}: {turn.get('content', '')}" if isinstance(turn, dict) else str(turn) for turn in prompt)
    return str(prompt)


def _prompt(prompt, answers, entries):
    """The prompt above the answers of all configurations, and those of their opponents that say something else."""
    cards = [_card(entry.name, sample, colour(entry.number), sample.get("verdict"), entries) for entry, sample in answers]
    others: dict[tuple[str, str], tuple[dict, list[str]]] = {}
    for entry, sample in answers:
        other = sample.get("against")
        if other and other["text"] is not None and other["text"] not in [one["text"] for _, one in answers]:
            others.setdefault((str(other.get("from") or "opponent"), other["text"]), (other, []))[1].append(entry.name)
    cards += [_card(_other(called(entries, who), names), other, None, None, entries) for (who, _), (other, names) in others.items()]
    return tag("div", tag("p", _cut(prompt), class_="prompt"), tag("div", *cards, class_="answers"), class_="sample")


def _other(who, names):
    return {REFERENCE: f"start of {' and '.join(names)}", CHOSEN: "chosen answer"}.get(who, f"{who}, opponent of {' and '.join(names)}")


def _card(name, sample, css, verdict, entries):
    scores = [f"{key} {value:.3g}".replace("-", "−") for key, value in sample.get("rewards", {}).items() if value is not None]
    tokens = sample.get("tokens")
    scores += [f"{tokens} tokens" if tokens != 1 else "1 token"] if isinstance(tokens, int) else []
    scores += ["cut off at the limit"] if sample.get("stop") == "length" else []
    word, style = VERDICTS.get(verdict, (None, None)) if isinstance(verdict, int | float) else (None, None)
    other = str((sample.get("against") or {}).get("from") or "its opponent")
    whom = {REFERENCE: "its start", CHOSEN: "the chosen answer"}.get(other) or called(entries, other)
    judged = tag("b", f"{word} against {whom}", class_=style) if word else None
    head = tag("header", tag("b", name), *(tag("span", score) for score in scores), judged)
    text = tag("p", _cut(sample["text"])) if sample["text"].strip() else tag("p", tag("i", "says nothing"))
    return tag("div", head, text, class_=f"answer {css or ''}".strip())


def _change(before, after):
    if before is None or after is None:
        return "–"
    return f"{before:.1f} → {after:.1f} ({after - before:+.1f})".replace("-", "−")


def _cut(text):
    text = text.strip("\n")
    return text if len(text) <= LETTERS else f"{text[:LETTERS]} …"

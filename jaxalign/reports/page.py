"""The page of a run in Markdown: results first, then data, settings, samples and how it was made; several stages stand on one page."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jaxalign.reports import alarms, wording
from jaxalign.reports.estimates import MISSING, Estimate

HEADLINE = ("accuracy", "loss", "kl")  # in this order; the same names for every objective
LENGTH = "ranking/length"  # the share of pairs whose better response is the longer one
OF_ANSWERS = ("win_rate", "win_rate_length_controlled", "reward", "exact_match", "kl")  # likewise, of what a model says
ANSWERS, CHOICES = "generate/", "multiple_choice"  # what stands before these, and before the accuracy of multiple choice
MEANING = {
    "accuracy": "share of pairs of responses whose better one gained more log-probability against the reference than the worse one; "
    "a tie counts half, so that training starts at 0.5, which is chance (without a reference: whose better one is likelier)",
    "length": "share of pairs whose better response is the longer one: what a judge of length alone would reach",
    "loss": "the objective's own loss; compare it between runs of the same objective only",
    "kl": "KL divergence of the policy from the reference, in nats per token of the rows",
    CHOICES: "share of questions whose right choice is the likeliest; compare it with `chance`",
    "generate/win_rate": "share of the model's answers that are better than the others'; a tie counts half",
    "generate/win_rate_length_controlled": "the same at equal length, by a logistic regression on the difference in length",
    "generate/reward": "mean reward of the model's answers",
    "generate/exact_match": "share of the model's answers that are right",
    "generate/kl": "KL divergence from the model that the run started from, in nats per answer, over the model's own answers",
}
SAMPLE_LETTERS = 600  # shown of each text


class Stage(NamedTuple):
    """One stage of a run as a page shows it."""

    name: str  # of its folder; "" where the run has no stages
    facts: dict[str, Any]  # "settings", "data", "samples", "run"; empty for an experiment
    first: dict[str, Estimate]  # held-out metrics before the first step
    last: dict[str, Estimate]  # at the end
    text: str  # of an experiment: its own table


def page(title: str, stages: Sequence[Stage]) -> str:
    """The whole page: results of each stage, then data, settings, samples and the run, each for all stages together."""
    trained = [stage for stage in stages if stage.facts]
    lines = [f"# {title}", ""]
    for stage in stages:
        lines += [f"## {stage.name}", ""] if stage.name else []
        lines += _results(stage) if stage.facts else [stage.text, ""]
    if trained:
        lines += _legend(trained)
        for heading, section in (("Data", _data), ("Settings", _settings), ("Held-out samples", _samples), ("The run", _run)):
            if body := section(trained):
                lines += [f"## {heading}", "", *body, ""]
    return "\n".join(lines)


def headline(metrics: Iterable[str]) -> list[str]:
    """The names among these that come first.

    They are accuracy, loss and KL of every held-out set, against the first reference where it moved, and the worth of the model's answers.
    Beside an accuracy stands what length alone would reach.
    """
    metrics = list(metrics)
    of_rows = [name for name in metrics if not name.startswith(ANSWERS)]
    found = [name for title in HEADLINE for name in of_rows if name.rpartition("/")[2] == title]
    # "initial/accuracy" takes the place of "accuracy": only it can be compared over time
    found = [name for name in found if _initial(name) not in found]
    found = [shown for name in found for shown in (name, _baseline(name)) if shown in of_rows]
    return found + [ANSWERS + title for title in OF_ANSWERS if ANSWERS + title in metrics]


def _title(name):
    """The name under which MEANING has it."""
    if name.startswith(CHOICES):
        return CHOICES
    return name if name.startswith(ANSWERS) else name.rpartition("/")[2]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    cells = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in row)} |" for row in cells]


def _baseline(name):
    """The metric of the same set that an accuracy has to be compared with; "" for other metrics."""
    head, _, metric = name.rpartition("/")
    where = head.removesuffix("initial").rstrip("/")
    return "/".join(filter(None, (where, LENGTH))) if metric == "accuracy" else ""


def _initial(name):
    head, _, metric = name.rpartition("/")
    return f"{head}/initial/{metric}" if head else f"initial/{metric}"


def _results(stage):
    names = headline(stage.last)
    if not names:
        return ["No held-out set was evaluated; set `data.eval` or `data.eval_fraction`.", "", *_picture(stage)]
    more = sorted(set(stage.last) - set(names))
    lines = [*_estimates(stage, names), ""]
    lines += [line for sentence in alarms.falling(stage.first, stage.last) for line in (f"**{sentence}**", "")]
    if more:
        lines += ["<details><summary>More held-out metrics</summary>", "", *_estimates(stage, more), "", "</details>", ""]
    return lines + _picture(stage)


def _estimates(stage, names):
    rows = [[f"`{name}`", stage.first.get(name, MISSING), stage.last[name], f"{stage.last[name].n:,}"] for name in names]
    return table(["held out", "before", "after", "prompts"], rows)


def _picture(stage):
    return [f"![training]({stage.name + '/' if stage.name else ''}plots/training.png)", ""]


def _legend(stages):
    shown = {_title(name) for stage in stages for name in headline(stage.last)}
    if not shown:
        return []
    lines = [f"- `{name}`: {meaning}." for name, meaning in MEANING.items() if name in shown]
    return [
        "\"±\" is one standard error over prompts: two of them either way contain the mean over all such prompts in about 95 of 100 cases.",
        "",
        *lines,
        "",
    ]


def _data(stages):
    rows = []
    for stage in stages:
        for role, one in stage.facts["data"].items():
            what = "; ".join(one["rules"]) or "-"
            kept = f"{one['kept']:,} of {one['read']:,}"
            counts = [f"{one['prompts']:,}", f"{one['pairs']:,}", f"{one['tokens']:,}", f"{one['fill']:.1%}"]
            rows.append([*([stage.name] if stage.name else []), role, f"{one['source']} ({one['format']})", kept, what, *counts])
    columns = ["set", "source (format)", "rows kept", "by rule", "prompts", "pairs", "tokens", "rows filled"]
    return table((["stage"] if stages[0].name else []) + columns, rows)


def _settings(stages):
    keys = list(dict.fromkeys(key for stage in stages for key in stage.facts["settings"]))
    rows = [[key, *(wording.text(stage.facts["settings"].get(key, "-")) for stage in stages)] for key in keys]
    return table(["setting", *(stage.name or "value" for stage in stages)], rows)


def _samples(stages):
    samples, lines = stages[-1].facts["samples"], []
    for sample in samples:
        lines += ["```text", _shortened(sample["prompt"]), "```", ""]
        rows = [[response["what"], *_logps(response), _inline(response["text"])] for response in sample["responses"]]
        lines += [*table(["response", "log-prob before, nats", "after", "change", "text"], rows), ""]
    if lines and stages[-1].name:
        lines = [f"Of the held-out prompts of `{stages[-1].name}`:", "", *lines]
    return lines[:-1]


def _logps(response):
    before, after = response["before"], response["after"]
    if before is None or after is None:
        return ["-", "-", "-"]
    return [f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"]


def _run(stages):
    first, last = stages[0].facts["run"], stages[-1].facts["run"]
    times = [f"{stage.name + ': ' if stage.name else ''}{_duration(stage.facts['run'])}" for stage in stages]
    lines = ["```bash", first["command"], "```", ""]
    return [*lines, f"- time: {'; '.join(times)}", *(f"- {key}: {last[key]}" for key in ("date", "devices", "peak memory", "versions"))]


def _duration(run):
    seconds, starts = run["seconds"], run["starts"]
    text = f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min" if seconds < 36_000 else f"{seconds / 3600:.1f} h"
    return text if starts == 1 else f"{text} in {starts} starts"


def _shortened(text):
    text = text.strip("\n").replace("```", "'''")
    return text if len(text) <= SAMPLE_LETTERS else f"... {text[-SAMPLE_LETTERS:]}"


def _inline(text):
    text = " ".join(text.split())
    return text if len(text) <= SAMPLE_LETTERS else f"{text[:SAMPLE_LETTERS]} ..."

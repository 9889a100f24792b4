"""What a report shows, read from the folders of runs: logs, summaries, evaluations, samples. What is damaged is named and passed over."""

from collections.abc import Iterator, Sequence
import contextlib
import datetime
import json
import logging
import math
from pathlib import Path
import re
from typing import Any, NamedTuple

from jaxalign.reports import comparison, groups, log, page, summary, wording
from jaxalign.reports.comparison import Evaluations
from jaxalign.reports.estimates import MISSING, Estimate
from jaxalign.reports.html import measures, shapes
from jaxalign.reports.html.measures import How

LOG = logging.getLogger(__name__)
STEP = re.compile(r"step-(\d+)")  # that the name of a file of a step begins with
SAMPLES = ".samples.jsonl"  # ending of the samples of an evaluation
PARTS = ("start", "checkpoint", "change")  # of an evaluation
BEFORE_ALL = -math.inf  # the time of what training logged: an evaluation of a step needs its checkpoint


class Evaluation(NamedTuple):
    """Metric -> estimate at the start and at the checkpoint, and of the change between them: what `jaxalign.evaluate` wrote, or the log."""

    name: str
    step: int | None
    start: dict[str, Estimate]
    checkpoint: dict[str, Estimate]
    change: dict[str, Estimate]
    samples: list[dict[str, Any]]  # as `evaluators.generation` makes them
    settings: str  # how they were drawn and judged, in words; "" where nothing tells
    how: How  # the same, as data
    time: float  # when it ended, in seconds since 1970; what training logged was there before


class Run(NamedTuple):
    """One seed."""

    name: str  # of its folder, or of that of the run whose stage it is
    folder: Path
    facts: dict[str, Any]  # of its summary; empty where there is none
    training: list[dict]  # lines of its log
    held_out: Evaluations  # of its log, and of its evaluations those of answers
    evaluations: list[Evaluation]  # by step, the newest last, one for each step and way to draw and judge; that of the log is among them

    def measured(self, name: str) -> Evaluation | None:
        """The evaluation that the last value of a metric is of."""
        end = self.held_out[-1][1].get(name, MISSING).value
        return next((one for one in reversed(self.evaluations) if one.checkpoint.get(name, MISSING).value == end), None)


class Entry(NamedTuple):
    """What a report compares: the seeds of one configuration."""

    name: str
    number: int  # of its colour
    runs: list[Run]

    @property
    def facts(self) -> dict[str, Any]:
        """The summary of the first seed that has one."""
        return next((run.facts for run in self.runs if run.facts), {})

    def row(self) -> comparison.Row:
        """Its held-out metrics."""
        return comparison.Row(self.name, {run.name: run.held_out for run in self.runs if run.held_out})

    def finished(self) -> list[Run]:
        """The runs that were evaluated as far as the furthest of them: those that `comparison.Row.last` counts."""
        names = self.row().finished()
        return [run for run in self.runs if run.name in names]


def read(folders: Sequence[Path], stages: Sequence[str] | None = None) -> tuple[list[Entry], list[str]]:
    """(what is compared, what is missing or damaged, a sentence each).

    Raises:
      ValueError: a folder is no run, or no run has what was asked for.
    """
    with _warnings() as warnings:
        found, missing = groups.read(folders, stages)
        if not found:
            raise ValueError(f"there is nothing to report: {' '.join(missing)}")
        given = [Entry(group.name, i, [_run(name, folder) for name, folder in group.folders.items()]) for i, group in enumerate(found)]
        entries = _named(given)
    for group, entry in zip(found, entries, strict=True):
        names = ["/".join(filter(None, (run.name, group.stage))) for run in entry.runs if not run.held_out]
        missing += [f"{name} was never evaluated on held-out prompts." for name in names]
    missing += comparison.gaps([entry.row() for entry in entries if entry.row().runs])
    return entries, list(dict.fromkeys([*warnings, *missing]))


def called(entries: Sequence[Entry], opponent: str) -> str:
    """A configuration of this report by its name; others as the evaluation calls them."""
    path, at, step = opponent.partition("@")
    parts = Path(path.removesuffix("/export")).parts
    own = (entry.name for entry in entries for run in entry.runs if parts and run.folder.resolve().parts[-len(parts) :] == parts)
    return next((name + at + step for name in own), opponent)


def _run(name, folder) -> Run:
    """A run whose metrics have no settings in their names yet."""
    logged, facts = log.read_estimates(folder), _facts(folder)
    paths = [path for path in folder.glob("evaluations/*.json") if path.is_file()]
    evaluations = [*_of_log(folder, logged, facts), *filter(None, map(_evaluation, sorted(paths)))]
    return Run(name, folder, facts, log.read_metrics(folder, "train"), logged, evaluations)


def _of_log(folder, logged, facts) -> list[Evaluation]:
    """The last evaluation of the log in which the model answered prompts."""
    paths = {step: path for path in folder.glob(f"{log.ANSWERS}/step-*.jsonl") if path.is_file() and (step := _step(path)) is not None}
    steps = [*paths, *(step for step, metrics in logged if any(name.startswith(page.ANSWERS) for name in metrics))]
    if not steps:
        return []
    step, metrics = max(paths or steps), dict(logged)
    samples, settings = _samples(paths[step]) if paths else [], facts.get("settings", {}).get("answers", {})
    ends = metrics.get(0, {}), metrics.get(step, {})
    return [Evaluation(log.ANSWERS, step, *ends, {}, samples, wording.text(settings), measures.how(settings, samples), BEFORE_ALL)]


def _named(entries: list[Entry]) -> list[Entry]:
    """The same with the settings of answers in the names of metrics wherever the runs were measured with several."""
    runs = _asked([run for entry in entries for run in entry.runs], entries)
    of_log = [next((one.how for one in run.evaluations if one.time == BEFORE_ALL), measures.how({}, [])) for run in runs]
    measured = [(name, how) for run, how in zip(runs, of_log, strict=True) for _, metrics in run.held_out for name in metrics]
    measured += [(name, one.how) for run in runs for one in run.evaluations for part in PARTS for name in getattr(one, part)]
    names = measures.named(measured)

    def renamed(metrics, how):
        return {names[name, how.of(name)]: value for name, value in metrics.items()}

    def whole(run, how):
        evaluations = [one._replace(**{part: renamed(getattr(one, part), one.how) for part in PARTS}) for one in run.evaluations]
        logged, evaluations = [(step, renamed(metrics, how)) for step, metrics in run.held_out], _in_order(evaluations)
        return run._replace(held_out=_completed(logged, evaluations), evaluations=evaluations)

    done = iter([whole(run, how) for run, how in zip(runs, of_log, strict=True)])
    return [entry._replace(runs=[next(done) for _ in entry.runs]) for entry in entries]


def _asked(runs, entries) -> list[Run]:
    """The runs with the prompts among the settings of their evaluations, and opponents called by their names in this report."""
    evaluations = [one for run in runs for one in run.evaluations]
    hows = iter(measures.with_prompts([one.how._replace(opponent=called(entries, one.how.opponent)) for one in evaluations]))
    return [run._replace(evaluations=[one._replace(how=next(hows)) for one in run.evaluations]) for run in runs]


def _in_order(evaluations) -> list[Evaluation]:
    """By step and time; of those of a step in which answers were drawn and judged the same way, the newest alone."""
    newest = {}
    for one in sorted(evaluations, key=lambda one: (-1 if one.step is None else one.step, one.time)):
        spoken = any(name.startswith(page.ANSWERS) for name in one.checkpoint)
        alike = (one.how.drawn, tuple(sorted(one.how.rewards.items())), one.how.decides, one.how.opponent) if spoken else one.name
        newest.pop((one.step, alike), None)
        newest[one.step, alike] = one
    return list(newest.values())


def _completed(logged: Evaluations, evaluations) -> Evaluations:
    """The logged metrics, with those of answers of all evaluations, start and checkpoint: of one name the last counts.

    An evaluation adds no others, as it may be of other held-out rows.
    """
    steps = {step: dict(metrics) for step, metrics in logged}
    for one in (one for one in evaluations if one.step is not None):
        for step, metrics in ((0, one.start), (one.step, one.checkpoint)):
            of_answers = {name: value for name, value in metrics.items() if name.startswith(page.ANSWERS)}
            if of_answers:
                steps[step] = steps.get(step, {}) | of_answers
    return sorted(steps.items())


def _facts(folder) -> dict[str, Any]:
    """The parts of the summary that are whole; a warning names the others."""
    facts = summary.read_facts(folder) or {}
    for part, shape in shapes.FACTS.items():
        if part in facts and not shapes.fits(facts[part], shape):
            LOG.warning("%s: its part %s is damaged and is passed over.", folder / summary.FACTS, part)
            del facts[part]
    return facts


def _evaluation(path) -> Evaluation | None:
    try:
        values = dict.fromkeys((*PARTS, "settings"), {}) | json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        values = str(error)
    if not shapes.fits(values, shapes.EVALUATION):
        LOG.warning("%s is damaged (%s) and is passed over.", path, values if isinstance(values, str) else "it holds no estimates")
        return None
    parts = [{name: _estimate(one) for name, one in values[part].items()} for part in PARTS]
    beside = path.with_name(path.stem + SAMPLES)
    samples = _samples(beside) if beside.is_file() else []
    settings = values["settings"].get("answers", {})
    how = measures.how(settings, samples)
    return Evaluation(path.stem, _step(path), *parts, samples, wording.text(settings), how, _time(values, path))


def _time(values, path) -> float:
    """When an evaluation ended, as it wrote it; of one that did not, when its file was written."""
    try:
        return datetime.datetime.fromisoformat(values["time"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return path.stat().st_mtime


def _estimate(one) -> Estimate:
    return Estimate(*(math.nan if one[key] is None else one[key] for key in Estimate._fields))


def _samples(path) -> list[dict]:
    """The lines of a file of samples that are whole; a warning counts the others."""
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    parsed = [_sample(line) for line in lines]
    if damaged := [number for number, sample in enumerate(parsed, 1) if sample is None]:
        counts = (path, len(damaged), len(lines), damaged[0])
        LOG.warning("%s: %d of %d lines are damaged, the first is line %d; they are passed over.", *counts)
    return [sample for sample in parsed if sample is not None]


def _sample(line: bytes) -> dict | None:
    """A line as `evaluators.generation` makes it; None where it is not."""
    try:
        sample = {"rewards": {}} | json.loads(line)
    except (ValueError, TypeError):
        return None
    other = sample.get("against")
    whole = shapes.fits(sample, shapes.SAMPLE) and {"id", "prompt"} <= sample.keys()
    if other is not None:
        whole = whole and shapes.fits(other, {}) and isinstance(other.get("text", 0), str | None)
        whole = whole and shapes.fits({"rewards": {}} | other, shapes.OTHER)
    return sample if whole else None


def _step(path) -> int | None:
    found = STEP.match(path.name)
    return int(found[1]) if found else None


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collects what the readers of a run warn of, so that the page shows it too."""
    sentences: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: sentences.append(record.getMessage())
    logger = logging.getLogger("jaxalign")
    logger.addHandler(handler)
    try:
        yield sentences
    finally:
        logger.removeHandler(handler)

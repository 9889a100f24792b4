"""What a report shows, read from the folders of runs: logs, summaries, evaluations, samples. What is damaged is named and passed over."""

from collections.abc import Iterator, Sequence
import contextlib
import json
import logging
import math
from pathlib import Path
import re
from typing import Any, NamedTuple

from jaxalign.reports import comparison, groups, log, page, summary
from jaxalign.reports.comparison import Evaluations
from jaxalign.reports.estimates import Estimate
from jaxalign.reports.html import shapes

LOG = logging.getLogger(__name__)
STEP = re.compile(r"step-(\d+)")  # that the name of a file of a step begins with
SAMPLES = ".samples.jsonl"  # ending of the samples of an evaluation
PARTS = ("start", "checkpoint", "change")  # of an evaluation


class Evaluation(NamedTuple):
    """Metric -> estimate at the start and at the checkpoint, and of the change between them: what `jaxalign.evaluate` wrote, or the log."""

    name: str
    step: int | None
    start: dict[str, Estimate]
    checkpoint: dict[str, Estimate]
    change: dict[str, Estimate]
    samples: list[dict[str, Any]]  # as `evaluators.generation` makes them
    settings: str = ""  # how they were drawn and judged, as `config.describe` lists it; "" where it is not known


class Run(NamedTuple):
    """One seed."""

    name: str  # of its folder, or of that of the run whose stage it is
    folder: Path
    facts: dict[str, Any]  # of its summary; empty where there is none
    training: list[dict]  # lines of its log
    held_out: Evaluations  # of its log, completed by those of its evaluations
    evaluations: list[Evaluation]  # in order of steps; first the last one of the log, where the model answered prompts
    samples: list[dict[str, Any]]  # generated answers: of an evaluation, or of the last step that has some


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
        entries = [Entry(group.name, i, [_run(name, folder) for name, folder in group.folders.items()]) for i, group in enumerate(found)]
    for group, entry in zip(found, entries, strict=True):
        names = ["/".join(filter(None, (run.name, group.stage))) for run in entry.runs if not run.held_out]
        missing += [f"{name} was never evaluated on held-out prompts." for name in names]
    missing += comparison.gaps([entry.row() for entry in entries if entry.row().runs])
    return entries, list(dict.fromkeys([*warnings, *missing]))


def _run(name, folder) -> Run:
    logged, facts = log.read_estimates(folder), _facts(folder)
    evaluations = [one for path in _by_step(folder.glob("evaluations/*.json")) if (one := _evaluation(path))]
    held_out = _completed(logged, evaluations)
    answers = [path for path in _by_step(folder.glob(f"{log.ANSWERS}/step-*.jsonl")) if _step(path) is not None]
    if answers:
        step, samples = _step(answers[-1]), _samples(answers[-1])
        metrics, how = dict(logged), facts.get("settings", {}).get("answers", "")
        evaluations.insert(0, Evaluation(log.ANSWERS, step, metrics.get(0, {}), metrics.get(step, {}), {}, samples, how))
    samples = next((one.samples for one in reversed(evaluations) if one.samples), [])
    return Run(name, folder, facts, log.read_metrics(folder, "train"), held_out, evaluations, samples)


def _completed(logged: Evaluations, evaluations) -> Evaluations:
    """The logged metrics, with those of generated answers that only an evaluation has; an evaluation on other data adds no others."""
    steps = {step: dict(metrics) for step, metrics in logged}
    for one in evaluations:
        for step, metrics in ((0, one.start), (one.step, one.checkpoint)):
            new = {name: value for name, value in metrics.items() if name.startswith(page.ANSWERS)}
            if new and step is not None:
                steps[step] = new | steps.get(step, {})
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
    return Evaluation(path.stem, _step(path), *parts, samples, values["settings"].get("answers", ""))


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


def _by_step(paths) -> list[Path]:
    return sorted((path for path in paths if path.is_file()), key=lambda path: (_step(path) or -1, path.name))


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

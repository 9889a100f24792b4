"""What a run writes while it goes: metrics.jsonl and TensorBoard always, Weights & Biases when asked, and a progress bar.

metrics.jsonl has one line per step: {"step": s, "split": "train" | "eval", NAME: value, ...}. Lines of held-out metrics also have their
standard errors, "se": {NAME: error}, and the number of prompts behind each, "n": {NAME: count}. Everything but the keys under "speed/" is a
function of the configuration, so a run that was interrupted and resumed writes the same lines.
"""

from collections.abc import Iterable, Mapping, Sequence
import json
import logging
import math
import os
from pathlib import Path
import sys

import rich.console
import rich.progress

from jaxalign.reports import alarms
from jaxalign.reports.estimates import Estimate

LOG = logging.getLogger(__name__)
METRICS = "metrics.jsonl"
ANSWERS = "samples"  # folder with what the model said at every evaluation, a line per answer
ERRORS = ("se", "n")  # keys of a held-out line beside its values
DIGITS = 18  # of an integer; a longer one is damage


class RunLog:
    """The logs of one run. Only the first process writes.

    Args:
      workdir: folder of the run.
      start_step: lines of this step and later ones, left by an interrupted run, are dropped.
      total_steps: length of the progress bar.
      wandb: also log to Weights & Biases.
      name: of the run.
      config: logged to Weights & Biases.
      quiet: write nothing (processes other than the first).
      aside: name of a file in the folder that gets the lines which are dropped, over what it held; None: they are lost.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start_step: int,
        total_steps: int,
        wandb: bool,
        name: str,
        config: dict,
        quiet: bool,
        aside: str | None = None,
    ):
        self.console = rich.console.Console(stderr=True, quiet=quiet, soft_wrap=not sys.stderr.isatty())
        self._file = self._board = self._wandb = None
        self._workdir, self._start_step, self._total = workdir, start_step, total_steps
        self._first, self._alarmed = {}, False  # held-out metrics before the first step; whether an alarm was told
        if not quiet:
            _drop_lines(workdir / METRICS, start_step, aside)
            for file in (workdir / ANSWERS).glob("step-*.jsonl"):
                if (number := file.stem.removeprefix("step-")).isdecimal() and int(number) > start_step:
                    file.unlink()
            self._first = dict(read_estimates(workdir)).get(0, {}) if start_step else {}
            self._file = open(workdir / METRICS, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
            if wandb:
                import wandb as weights_and_biases

                identity = workdir / "wandb_id"  # a run that is continued goes on in the same W&B run
                if not identity.exists():
                    identity.write_text(weights_and_biases.util.generate_id())
                self._wandb = weights_and_biases.init(
                    dir=str(workdir), name=name, config=config, id=identity.read_text(), resume="allow"
                )
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[text]}"),
            rich.progress.TimeRemainingColumn(),
        )
        self._progress = rich.progress.Progress(*columns, console=self.console, disable=quiet or not sys.stderr.isatty())
        self._progress.start()
        self._task = self._progress.add_task(name or "train", total=total_steps, completed=start_step, text="compiling")

    def metrics(self, split: str, step: int, values: dict[str, float]) -> None:
        """Writes one line. A value that is not finite, such as the NaN of a metric that nothing in this batch has, becomes null."""
        self._write(split, step, values, {})

    def held_out(self, step: int, estimates: dict[str, Estimate]) -> None:
        """Writes one line of held-out metrics with their standard errors and counts; those that are not finite are named."""
        if bad := sorted(name for name, one in estimates.items() if one.n and not math.isfinite(one.value)):
            self.say(f"step {step}: the held-out metrics {', '.join(bad)} are not finite.")
        errors = _finite({name: one.se for name, one in estimates.items()})
        extra = dict(zip(ERRORS, (errors, {name: estimates[name].n for name in errors}), strict=True))
        self._write("eval", step, {name: one.value for name, one in estimates.items()}, extra)
        self._first = self._first or (estimates if step == 0 else {})
        if not self._alarmed and (found := alarms.falling(self._first, estimates)):
            self._alarmed = True
            for sentence in found:
                self.say(f"step {step}: {sentence}")

    def answers(self, step: int, lines: Sequence[Mapping]) -> None:
        """Writes what the model said at a step to WORKDIR/samples/step-N.jsonl, a line per answer."""
        if self._file is not None:
            write_lines(self._workdir / ANSWERS / f"step-{step}.jsonl", lines)

    def _write(self, split, step, values, extra):
        if self._file is None:
            return
        clean = _finite(values)
        self._file.write(json.dumps({"step": step, "split": split, **clean, **extra}) + "\n")
        for name, value in clean.items():
            if value is not None:
                self._tensorboard().add_scalar(f"{split}/{name}", value, step)
        if self._wandb:
            self._wandb.log({f"{split}/{name}": value for name, value in clean.items()}, step=step)

    def _tensorboard(self):
        """The writer of TensorBoard files, made at the first value: a run that is opened and has nothing to write leaves no empty file."""
        if self._board is None:
            tensorboardX = _tensorboardx()
            self._board = tensorboardX.SummaryWriter(str(self._workdir / "tensorboard"), purge_step=self._start_step)
        return self._board

    def progress(self, step: int, values: dict[str, float]) -> None:
        """Moves the bar; where the output is no terminal, prints a line instead."""
        text = "  ".join(f"{name.rpartition('/')[2]} {_short(value)}" for name, value in values.items() if math.isfinite(value))
        self._progress.update(self._task, completed=step, text=text)
        if self._progress.disable:
            self.console.print(f"step {step}/{self._total}  {text}", highlight=False)
        self.flush()

    def say(self, text: str) -> None:
        """One line above the bar."""
        self.console.print(text, highlight=False)

    def flush(self) -> None:
        """Everything written so far is on disk. A file that somebody has taken away is begun anew, which is told."""
        if self._file is not None:
            self._file.flush()
            if not (path := self._workdir / METRICS).exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file.close()
                self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
                self.say(f"{path} was gone; it was begun anew, without the lines until now.")
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Ends the bar and closes the files."""
        self._progress.stop()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb:
            self._wandb.finish()


def write_lines(path: Path, lines: Iterable[Mapping]) -> None:
    """Writes a JSONL file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    os.replace(partial, path)


def read_metrics(workdir: str | Path, split: str) -> list[dict]:
    """The lines of one split, in order of steps: {"step", "split", NAME: value}; None where a value was not finite."""
    return [{key: value for key, value in line.items() if key not in ERRORS} for line in _lines(workdir, split)]


def read_estimates(workdir: str | Path) -> list[tuple[int, dict[str, Estimate]]]:
    """[(step, metric -> estimate)] of the held-out lines, in order of steps."""
    return [(line["step"], _estimates(line)) for line in _lines(workdir, "eval")]


def _estimates(line):
    errors, counts = (line.get(key, {}) for key in ERRORS)
    values = {name: value for name, value in line.items() if name not in ("step", "split", *ERRORS)}
    return {
        name: Estimate(*(math.nan if x is None else x for x in (value, errors.get(name))), counts.get(name, 0))
        for name, value in values.items()
    }


def _lines(workdir, split):
    return [record for _, record in _records(Path(workdir) / METRICS) if record["split"] == split]


def _records(path) -> list[tuple[bytes, dict]]:
    """(line, its values) of every line that is whole; a warning counts the others, but for a last one that the end of a process cut."""
    *lines, rest = path.read_bytes().split(b"\n")
    parsed = [(line, _parse(line)) for line in (*lines, rest)]
    if damaged := [number for number, (_, record) in enumerate(parsed[:-1], 1) if record is None]:
        counts = (path, len(damaged), len(lines), damaged[0])
        LOG.warning("%s: %d of %d lines are damaged, the first is line %d; they are passed over.", *counts)
    return [(line, record) for line, record in parsed if record is not None]


def _parse(line: bytes) -> dict | None:
    """The values of a line of metrics; None where it is not as `RunLog` writes one."""
    try:
        record = json.loads(line, parse_int=_integer)
    except ValueError:
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int or not isinstance(record.get("split"), str):
        return None
    tables = [record.get(key, {}) for key in ERRORS]
    values = {name: value for name, value in record.items() if name not in ("step", "split", *ERRORS)}
    whole = all(isinstance(table, dict) and _are_numbers(table) for table in (*tables, values))
    return record if whole and None not in tables[1].values() else None


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"{len(text)} digits are no count and no step")
    return int(text)


def _are_numbers(values: dict) -> bool:
    return all(value is None or isinstance(value, int | float) for value in values.values())


def _finite(values):
    return {name: (value if math.isfinite(value) else None) for name, value in sorted(values.items())}


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _drop_lines(path: Path, start_step: int, aside: str | None) -> None:
    if not path.exists():
        return
    kept, dropped = [], []
    for line, record in _records(path):
        # an evaluation at the step of a checkpoint came before it was written; that of step 0, which has none, is made again
        stays = record["step"] < start_step or (record["split"] == "eval" and record["step"] == start_step > 0)
        (kept if stays else dropped).append(line)
    for target, lines in ((path, kept), *([(path.with_name(aside), dropped)] if aside else [])):
        partial = target.with_suffix(".partial")
        partial.write_bytes(b"".join(line + b"\n" for line in lines))
        os.replace(partial, target)


def _tensorboardx():
    """The library, imported as where there is no torch: it imports torch for a type that no number here has, and that takes seconds."""
    if "torch" in sys.modules:
        import tensorboardX

        return tensorboardX
    sys.modules["torch"] = None
    try:
        import tensorboardX
    finally:
        del sys.modules["torch"]
    return tensorboardX

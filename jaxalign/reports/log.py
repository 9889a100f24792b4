"""What a run writes while it goes: metrics.jsonl and TensorBoard always, Weights & Biases when asked, and a progress bar.

metrics.jsonl has one line a step: {"step": s, "split": "train" | "eval", ...}. Everything in it but the keys under "speed/" is a
function of the configuration, so a run that was interrupted and resumed writes the same lines.
"""

import json
import math
import os
from pathlib import Path
import sys

import rich.console
import rich.progress

METRICS = "metrics.jsonl"


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
    """

    def __init__(self, workdir: Path, *, start_step: int, total_steps: int, wandb: bool, name: str, config: dict, quiet: bool):
        self.console = rich.console.Console(stderr=True, quiet=quiet, soft_wrap=not sys.stderr.isatty())
        self._file = self._board = self._wandb = None
        self._total = total_steps
        if not quiet:
            import tensorboardX

            _drop_lines(workdir / METRICS, start_step)
            self._file = open(workdir / METRICS, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
            self._board = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step)
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
        """Writes one line. NaN (a metric that nobody had in this batch) becomes null."""
        if self._file is None:
            return
        clean = {name: (value if math.isfinite(value) else None) for name, value in sorted(values.items())}
        self._file.write(json.dumps({"step": step, "split": split, **clean}) + "\n")
        for name, value in clean.items():
            if value is not None:
                self._board.add_scalar(f"{split}/{name}", value, step)
        if self._wandb:
            self._wandb.log({f"{split}/{name}": value for name, value in clean.items()}, step=step)

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
        """Everything written so far is on disk."""
        if self._file is not None:
            self._file.flush()
            self._board.flush()

    def close(self) -> None:
        """Ends the bar and closes the files."""
        self._progress.stop()
        if self._file is not None:
            self._file.close()
            self._board.close()
        if self._wandb:
            self._wandb.finish()


def read_metrics(workdir: str | Path, split: str) -> list[dict]:
    """The lines of one split, in order of steps."""
    with open(Path(workdir) / METRICS, encoding="utf-8") as file:
        return [line for line in map(json.loads, file) if line["split"] == split]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _drop_lines(path: Path, start_step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the last line of a killed run
            continue
        # an evaluation at the step of a checkpoint came before it was written
        if record["step"] < start_step or (record["split"] == "eval" and record["step"] == start_step):
            kept.append(line)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(partial, path)

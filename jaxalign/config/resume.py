"""What must be the same where a run is continued, and what may change."""

from collections.abc import Collection
import contextlib
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxalign.config import adapters, apart, build, stored, teacher
from jaxalign.config.durations import Durations
from jaxalign.config.schema import units
from jaxalign.models import model as models
from jaxalign.scoring import rewards
from jaxalign.training import bases, runs, sources
from jaxalign.training.checkpoint import Checkpoints
from jaxalign.training.runs import CheckpointError
from jaxalign.types import TrainState

# Settings that may differ from those of the run that is continued: they change where and how often, not what.
FREE_TO_CHANGE = (
    "mesh", "batch.gradient_accumulation_steps", "model.attention", "model.remat",
    "model.lora.base_dtype",  # what it comes to is compared
    "model.checkpoint", "model.tokenizer", "reference.checkpoint",  # paths: what they hold is compared by content
    "data.row_tokens",  # None fits it to the rows, which are compared by content
    "data.computed", "data.rollout.places", "data.processes", "data.prepared_dir", "eval",
    *(f"train.{key}" for key in ("keep_last", "keep_best", "best_metric", "export", "export_dtype", "max_kl", "mirror", "wandb")),
    *(f"train.{key}" for key in ("on_nan", "on_spike", "spike_grad_norm", "max_roll_backs", "stall_minutes", "lost_minutes")),
    *(f"train.{name}_{unit}" for name in ("log_every", "eval_every", "save_every", "extend") for unit in units(name)),
)  # fmt: skip


def open_run(cfg: ConfigDict, model: models.Model, workdir: Path) -> tuple[Checkpoints, int, dict[str, Any]]:
    """(the run's checkpoints, the step to begin with, what identifies the "weights" that it starts from, "base", "teacher" and "reward").

    Raises:
      ValueError: settings, model or weights are not those of the run that is there, or the weights do not fit the model.
      CheckpointError: all checkpoints are damaged.
    """
    kept = {"keep_last": cfg.train.keep_last, "keep_best": cfg.train.keep_best, "metric": cfg.train.best_metric}
    saved = Checkpoints(workdir, **kept, mirror=cfg.train.mirror)
    start = _start(saved, cfg.to_dict())
    before = saved.read_run(start) if start else None
    adapters.settle(cfg, before)
    weights = build.weights_identity(cfg)
    if start:
        check_same_run(before["config"], cfg.to_dict(), workdir)
        check_same_model(before, runs.model_record(model.config), weights, workdir)
    else:
        build.check_weights(cfg)
    base = adapters.base(cfg)
    below = base and {**base._asdict(), "weights": sources.identity(base)}
    if start:
        check_base(before, model, below and below["weights"], workdir)
    taught = teacher.settle(cfg, model, build.renderer(cfg).tokenizer)
    if start:
        check_same_teacher(before, taught, workdir, way="Choose a new --workdir for this teacher, or go back to that one.")
    judge = None if cfg.data.rollout is None or cfg.data.rollout.reward is None else rewards.content(cfg.data.rollout.to_dict()["reward"])
    if start and before.get("reward", judge) != judge:
        runs.to_stderr(
            f"data.rollout.reward={cfg.data.rollout.reward!r} has other content than when the checkpoint of step {start} was written: its "
            "window keeps the rewards that it has, and later samples are judged by what is there now."
        )
    return saved, start, {"weights": weights, "teacher": taught, "base": below, "reward": judge}


def first_state(
    cfg: ConfigDict, model: models.Model, made: build.Functions, saved: Checkpoints, start: int, lengths: Durations, prepared: list[str],
    workdir: Path,
) -> tuple[TrainState, bool]:  # fmt: skip
    """(state, whether the held-out metrics of its step are known): from the checkpoint of step `start`, or of a run that starts.

    Args:
      prepared: what a checkpoint records of the rows.

    Raises:
      ValueError: the checkpoint lies beyond the end of the run, or was trained on other rows.
    """
    if not start:
        return apart.seated(cfg, model, made.init_state(build.params(cfg, model))), False
    if start > lengths.total:
        raise ValueError(
            f"{workdir} holds step {start}, beyond the {lengths.total} steps that are asked for; make train.extend_* longer, or choose "
            "another --workdir."
        )
    before = saved.read_run(start)
    check_same_data(before["data"]["prepared"], prepared, workdir)
    state = saved.restore(apart.left_out(cfg, model, build.abstract_state(cfg, model, made.init_state)), start)
    return apart.seated(cfg, model, state), before["metrics"] is not None


def check_same_data(before: list[str], now: list[str], workdir) -> None:
    """Raises ValueError where a run is continued on other prepared rows; their names are hashes of their content."""
    if before != now:
        raise ValueError(
            f"{workdir} holds a run on other rows ({', '.join(before)}, now {', '.join(now)}): the data, the tokenizer or the way rows are "
            "made has changed; choose a new --workdir, or go back to the old data."
        )


def check_same_run(before: dict, now: dict, workdir) -> None:
    """Raises ValueError where a run is continued with settings that would have made it another run.

    A run without an extension may get one, at any learning rate; a key without effect, as earlier versions stored it, is no setting.
    """
    before = stored.settled(before)
    extended = any(before["train"].get(f"extend_{unit}") for unit in units("extend"))
    free = FREE_TO_CHANGE if extended else (*FREE_TO_CHANGE, "train.extend_learning_rate")

    def flat(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    old, new = (dict(flat(json.loads(json.dumps(values)))) for values in (before, now))
    changed = [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not any(key == name or key.startswith(f"{name}.") for name in free)
    ]
    if changed:
        longer = any(line.startswith("train.total_") for line in changed)
        way = " To go on from a finished run, leave train.total_* as it was and set train.extend_steps." if longer else ""
        raise ValueError(
            f"{workdir} holds a run with other settings ({'; '.join(changed)}); choose a new --workdir, or go back to the old "
            f"settings.{way}"
        )


def _start(saved: Checkpoints, now: dict) -> int:
    """The newest good step of this run; newer checkpoints of another one are passed over where the older ones show that they are."""
    start = saved.begin()
    while start is not None and (reason := _foreign(saved, start, now)):
        saved.pass_over(start, reason)
        start = saved.begin()
    return start or 0


def _foreign(saved, step, now) -> str:
    """Why a checkpoint is of another run; "" where nothing shows it: the present configuration may be the one that is another."""

    def goes_on(before, after):
        try:
            check_same_run(before, after, "")
        except ValueError:
            return False
        return True

    newer = saved.read_run(step)["config"]
    for other in reversed(saved.steps()[:-1]) if not goes_on(newer, now) else ():
        with contextlib.suppress(CheckpointError):  # a damaged one shows nothing
            older = saved.read_run(other)["config"]
            if goes_on(older, now) and not goes_on(older, newer):
                return f"is of a run with other settings than the checkpoint of step {other} and this one"
    return ""


def check_same_model(before: dict, model: dict, weights: str | None, workdir) -> None:
    """Raises ValueError where a run is continued with another model, or as if it had started from other weights.

    Args:
      before: the record of the run's checkpoint.
      model: the plain values of the present model's config.
      weights: a hash of the present weights to start from; None where there are none.
    """
    if changed := [f"{key}: {old!r} -> {model.get(key)!r}" for key, old in before["model"].items() if model.get(key) != old]:
        raise ValueError(
            f"{workdir} holds a run of another model ({'; '.join(changed)}); choose a new --workdir, or go back to that model."
        )
    started = before.get("weights")
    if None not in (started, weights) and started != weights:
        raise ValueError(
            f"{workdir} holds a run that started from other weights: model.checkpoint was {before['config']['model']['checkpoint']!r} "
            f"with content {started}, and the present one has {weights}. Choose a new --workdir to start from these, or go back to those."
        )


def check_base(before: dict, model: models.Model, weights: str | None, workdir) -> None:
    """Raises ValueError where a run with adapters is continued on another base, or on one that is stored in another type.

    Args:
      before: the record of the run's checkpoint.
      weights: a hash of the present base; None where it is random, or there are no adapters.
    """
    if model.lora is None:
        return
    bases.check(before, weights, workdir)
    if (was := before["base_dtype"]) != model.base_dtype:
        raise ValueError(
            f"{workdir} holds adapters on weights that were stored as {was}, and here they would be stored as {model.base_dtype}; set "
            f"model.lora.base_dtype={was!r}."
        )


def check_evaluated(cfg: ConfigDict, model: models.Model, run: tuple[Path, int] | None, *, typed: Collection[str]) -> None:
    """Raises ValueError where a model is evaluated with a teacher that does not fit it, or with other weights than its run had.

    Args:
      run: the folder and the step of the run that is evaluated; None for a folder of weights.
      typed: keys that the command line sets.
    """
    taught = teacher.settle(cfg, model, build.renderer(cfg).tokenizer)
    if None not in (run, taught) and "reference.checkpoint" not in typed:
        way = "Go back to that one, or name the present one with --config.reference.checkpoint=."
        check_same_teacher(runs.record(*run), taught, run[0], way=way)


def check_same_teacher(before: dict, weights: str | None, workdir, *, way: str) -> None:
    """Raises ValueError where the teacher of a run has other weights now.

    Args:
      before: the record of the run's checkpoint.
      weights: a hash of the present teacher's weights; None where the run has no teacher.
      way: what to do about it.
    """
    if (taught := before.get("teacher")) != weights:
        raise ValueError(
            f"{workdir} holds a run with another teacher: reference.checkpoint was {before['config']['reference'].get('checkpoint')!r} "
            f"with content {taught or 'that its record does not tell'}, and the present one has {weights}. {way}"
        )

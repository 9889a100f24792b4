"""The one reader of a run's checkpoints: which steps there are, which is the newest good one, what it contains.

WORKDIR/checkpoints/STEP is a finished checkpoint. `checkpoint` writes it; a save that did not finish has another name.
"""

from collections.abc import Callable, Iterable
import dataclasses
import json
import math
from pathlib import Path
import re
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from jaxalign.manifest import Manifest, difference
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig, RopeScaling
from jaxalign.models.features import head_of
from jaxalign.models.heads import ValueHeadConfig
from jaxalign.models.lora import LoraConfig

SEAL = Manifest("manifest.json")  # of a finished checkpoint
RECORD = "run/metadata"  # file of a checkpoint: what `checkpoint.run_record` makes
STEP = re.compile(r"0|[1-9][0-9]*")  # name of a checkpoint's folder
NO_STEP = -1
TOKENIZER = "tokenizer"  # folder in a run's folder: the tokenizer, template and stop tokens as trained


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read. The message names the newest good one and the way out."""


def to_stderr(text: str) -> None:
    """Prints a line on standard error, on the first process only."""
    if is_first():
        print(text, file=sys.stderr)


def is_first() -> bool:
    """Whether this is the first process. It does not start the devices."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def checkpoints(workdir: str | Path) -> Path:
    """The folder of a run's checkpoints."""
    return Path(workdir).absolute() / "checkpoints"


def steps(workdir: str | Path) -> list[int]:
    """Steps of a run's finished checkpoints, in order."""
    folder = checkpoints(workdir)
    return sorted(int(path.name) for path in folder.iterdir() if STEP.fullmatch(path.name) and path.is_dir()) if folder.is_dir() else []


def newest_good(workdir: str | Path, *, tell: Callable[[str], None] = to_stderr) -> int | None:
    """The newest step whose files are as they were written; None where the run has no checkpoint yet.

    A checkpoint that its manifest contradicts is passed over. One without a manifest, as earlier versions wrote them, is taken
    where none has one. `tell` gets a line for either. The first process reads, all processes get its answer.

    Raises:
      CheckpointError: there are checkpoints, and all of them are damaged.
    """
    newest = _first_good(workdir, reversed(steps(workdir)), tell) if is_first() else None
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        newest = int(multihost_utils.broadcast_one_to_all(np.int64(NO_STEP if newest is None else newest)))
        newest = None if newest == NO_STEP else newest
    if newest is None and steps(workdir):
        raise _all_damaged(workdir)
    return newest


def _all_damaged(workdir):
    return CheckpointError(
        f"every checkpoint in {checkpoints(workdir)} is damaged; bring an intact copy of one there, or choose a new --workdir "
        "to start from the beginning."
    )


def _first_good(workdir, candidates: Iterable[int], tell) -> int | None:
    """The first of these steps whose checkpoint is as it was written; None where none is."""
    for step in candidates:
        folder = checkpoints(workdir) / str(step)
        if reason := damage(workdir, step):
            tell(f"the checkpoint of step {step} {reason}; it is passed over.")
            continue
        if not SEAL.is_in(folder):
            tell(f"the checkpoint of step {step} has no {SEAL.name} (an earlier version wrote it): it cannot be checked.")
        return step
    return None


def damage(workdir: str | Path, step: int, only: Callable[[str], bool] = lambda name: True) -> str:
    """Why the checkpoint of a step is not what was saved at that step, as the end of a sentence; "" where nothing contradicts it.

    Args:
      only: whether a file is looked at, by its path in the checkpoint.
    """
    folder = checkpoints(workdir) / str(step)
    if not SEAL.is_in(folder):
        if any(SEAL.is_in(folder.parent / str(older)) for older in steps(workdir) if older < step):
            return f"has no {SEAL.name}: its save did not end"
    elif change := SEAL.damage(folder, only):
        return f"is damaged: {folder}: {change}"
    try:
        saved = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        saved_at = saved.get("data", {}).get("step", step)
    except (OSError, ValueError, AttributeError) as error:
        return f"cannot be read: {folder / RECORD}: {error}"
    return "" if saved_at == step else f"is that of step {saved_at} in another's folder, {folder}"


def from_first(make: Callable[[], str | None]) -> str | None:
    """What the first process makes, on every process: one short hash or None."""
    made = make() if jax.process_index() == 0 else None
    if jax.process_count() == 1:
        return made
    letters = np.frombuffer((made or "").ljust(64).encode(), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(letters), np.uint8)).decode().strip() or None


def record(workdir: str | Path, step: int) -> dict[str, Any]:
    """What `checkpoint.run_record` wrote into a checkpoint; the arrays beside it are not looked at.

    Raises:
      CheckpointError: it cannot be read, is not as it was written, or is another step's.
    """
    if reason := damage(workdir, step, only=_is_record):
        raise CheckpointError(f"the checkpoint of step {step} {reason}; choose another step, or bring an intact copy there.")
    return json.loads((checkpoints(workdir) / str(step) / RECORD).read_text(encoding="utf-8"))


def _is_record(name):
    return name == RECORD


def tokenizer(workdir: str | Path, step: int) -> str:
    """The folder of the tokenizer that the run was trained with: its own copy, or where it was.

    Raises:
      CheckpointError: the copy is not as the run wrote it. Checkpoints of earlier versions do not contain what it was like.
    """
    kept, run = Path(workdir).absolute() / TOKENIZER, record(workdir, step)
    written = run.get("tokenizer_files")
    if written and (change := difference(kept, written)):
        raise CheckpointError(
            f"the tokenizer of the run is damaged: {kept}: {change}; start its training command again, which writes the folder anew and "
            "trains no further than before, or bring an intact copy there."
        )
    return str(kept) if kept.is_dir() else run["tokenizer"]


def read(workdir: str | Path, step: int, parts: dict[str, Any]) -> dict[str, Any]:
    """Item -> tree of a checkpoint, laid out as the trees of shapes in `parts` say, on any mesh.

    Raises:
      CheckpointError: it does not hold such trees.
    """
    items = ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in parts.items()})
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        try:
            return dict(reader.restore(checkpoints(workdir) / str(step), args=items).items())
        except Exception as error:  # whatever orbax makes of a tree of other names or shapes
            first = str(error).strip().splitlines()[0][:200]
            raise CheckpointError(
                f"the checkpoint {checkpoints(workdir) / str(step)} cannot be read as this model ({first}); it is another model's, "
                "or damaged: choose another step, or bring an intact copy of it there."
            ) from error


def model_of(run: dict[str, Any], *, base_dtype: str | None = None) -> models.Model:
    """The model of a run's record, with its heads; earlier versions recorded none. `base_dtype` may be another than the run's own."""
    largest = run.get("value_head")
    head = None if largest is None else ValueHeadConfig(max_value=largest)
    own = run.get("critic_model")  # of a critic with a decoder of its own
    stored = {"lora": lora_of(run["config"]["model"].get("lora")), "base_dtype": base_dtype or run.get("base_dtype", "float32")}
    critic = {"critic": run.get("critic"), "critic_config": own and model_config(own)}
    return models.build(model_config(run["model"]), head, head_of(run.get("reward_head")), **critic, **stored)


def lora_of(section: dict[str, Any] | None) -> LoraConfig | None:
    """The adapters that the section model.lora of a configuration describes."""
    if section is None:
        return None
    values = {field.name: section[field.name] for field in dataclasses.fields(LoraConfig)}
    return LoraConfig(**{**values, "targets": tuple(values["targets"])})


def trained(section: dict[str, Any], model: models.Model) -> tuple[str, ...] | None:
    """Top-level keys of the parameters that a run trains, by the section "model" of its configuration; None: all of them."""
    if model.lora is not None:
        return tuple(name for name in (models.LORA, *models.HEADS) if name in model.shapes)
    which = section["trainable"] if "trainable" in section else section["train"]  # its name in earlier versions
    return None if which == "all" else (which,)


def chosen(workdir: str | Path, step: int | None, *, tell: Callable[[str], None] = to_stderr) -> int:
    """The step, checked; the newest good one where it is None.

    Raises:
      CheckpointError: there is no run, or the step is not among its checkpoints or damaged.
    """
    there = steps(workdir)
    if not there:
        raise CheckpointError(no_run(Path(workdir)))
    if step is None:
        return newest_good(workdir, tell=tell)
    if step not in there:
        raise CheckpointError(f"{checkpoints(workdir)} holds checkpoints of steps {there}, not {step}; choose one of them.")
    if reason := damage(workdir, step):
        others = [other for other in there if other != step]
        way = f"choose another step: {others}" if others else "bring an intact copy there"
        raise CheckpointError(f"the checkpoint of step {step} {reason}; {way}.")
    return step


def parse_step(text: str | None, workdir: str | Path, *, tell: Callable[[str], None] = to_stderr) -> int | None:
    """The step that "RUN@STEP" or "RUN@best" names; None for a run alone.

    The best is the best of the checkpoints that are as they were written; `tell` gets a line for each better one that is not.

    Raises:
      ValueError: it is neither a number nor "best", or no checkpoint has the metric that decides what is best.
      CheckpointError: the best is asked for, and all checkpoints are damaged.
    """
    if text != "best":
        if text is not None and not text.isdecimal():
            raise ValueError(f"{workdir}@{text}: after @ comes the step of a checkpoint, or best.")
        return None if text is None else int(text)
    there = steps(workdir)
    if not there:
        raise CheckpointError(no_run(Path(workdir)))
    reasons = {step: damage(workdir, step, only=_is_record) for step in there}
    for step in filter(reasons.get, there):
        tell(f"the checkpoint of step {step} {reasons[step]}; it is passed over.")
    there = [step for step in there if not reasons[step]]
    if not there:
        raise _all_damaged(workdir)
    metric = record(workdir, there[-1])["config"]["train"]["best_metric"]
    values = losses(workdir, metric, there)
    if not values:
        raise ValueError(f"{workdir}@best: none of its checkpoints {there} was evaluated by {metric}; name one by its step.")
    step = _first_good(workdir, reversed(best(values)), tell)
    if step is None:
        raise _all_damaged(workdir)
    return step


def losses(workdir: str | Path, metric: str, there: Iterable[int]) -> dict[int, float]:
    """Step -> the value of a held-out metric, where it is finite; less is better, and the sign of "-NAME" is turned round.

    Raises:
      CheckpointError: a record cannot be read, or is not as it was written.
    """
    name, sign = metric.removeprefix("-"), -1.0 if metric.startswith("-") else 1.0
    values = {step: (record(workdir, step).get("metrics") or {}).get(name) for step in there}
    return {step: sign * value for step, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}


def best(values: dict[int, float]) -> list[int]:
    """Steps from the worst to the best; of equal ones the newer is better."""
    return sorted(values, key=lambda step: (-values[step], step))


def no_run(workdir: Path) -> str:
    """What is wrong with a folder that holds no checkpoint: its stages are named where it has some."""
    stages = sorted(path.parent.name for path in workdir.glob("*/checkpoints"))
    if stages:
        return f"{workdir} is a run of stages {', '.join(stages)}; name one of them, like {workdir / stages[-1]}."
    return f"there is no run in {workdir}; give the folder of a run that has saved a checkpoint."


def model_config(values: dict[str, Any]) -> ModelConfig:
    """The ModelConfig of a record's "model"."""
    nested = {"rope_scaling": RopeScaling(**values["rope_scaling"]), "windows": tuple(values["windows"])}
    return ModelConfig(**{**values, **nested})


def model_record(config: ModelConfig) -> dict[str, Any]:
    """The plain values of a ModelConfig, as `model_config` reads them."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def unused(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that does not exist."""
    number, free = 2, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.name}-{number}")
    return free

"""The one reader of a run's checkpoints: which steps there are, which is the newest good one, what it contains.

WORKDIR/checkpoints/STEP is a finished checkpoint. `checkpoint` writes it; a save that did not finish has another name.
"""

from collections.abc import Callable
import dataclasses
import json
import math
from pathlib import Path
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from jaxalign import sharding
from jaxalign.manifest import Manifest
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig, RopeScaling
from jaxalign.models.heads import ValueHeadConfig

SEAL = Manifest("manifest.json")  # of a finished checkpoint
NO_STEP = -1
TOKENIZER = "tokenizer"  # folder in a run's folder: the tokenizer, template and stop tokens as trained


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read. The message names the newest good one and the way out."""


def to_stderr(text: str) -> None:
    """Prints a line on standard error, on the first process only."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr)


def checkpoints(workdir: str | Path) -> Path:
    """The folder of a run's checkpoints."""
    return Path(workdir).absolute() / "checkpoints"


def steps(workdir: str | Path) -> list[int]:
    """Steps of a run's finished checkpoints, in order."""
    folder = checkpoints(workdir)
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def newest_good(workdir: str | Path, *, tell: Callable[[str], None] = to_stderr) -> int | None:
    """The newest step whose files are as they were written; None where the run has no checkpoint yet.

    A checkpoint that its manifest contradicts is passed over. One without a manifest, as earlier versions wrote them, is taken
    where none has one. `tell` gets a line for either. The first process reads, all processes get its answer.

    Raises:
      CheckpointError: there are checkpoints, and all of them are damaged.
    """
    found = _newest_good(workdir, tell) if jax.process_index() == 0 else None
    if jax.process_count() > 1:
        found = int(multihost_utils.broadcast_one_to_all(np.int64(NO_STEP if found is None else found)))
        found = None if found == NO_STEP else found
    if found is None and steps(workdir):
        raise CheckpointError(
            f"every checkpoint in {checkpoints(workdir)} is damaged; bring an intact copy of one there, or choose a new --workdir "
            "to start from the beginning."
        )
    return found


def _newest_good(workdir, tell):
    unsealed = []
    for step in reversed(steps(workdir)):
        folder = checkpoints(workdir) / str(step)
        if not SEAL.is_in(folder):
            unsealed.append(step)
        elif damage := SEAL.damage(folder):
            tell(f"the checkpoint of step {step} is damaged: {folder}: {damage}; it is passed over.")
        else:
            for newer in (number for number in unsealed if number > step):
                tell(f"the checkpoint of step {newer} has no {SEAL.name}: its save did not end; it is passed over.")
            return step
    if unsealed:
        tell(f"the checkpoint of step {unsealed[0]} has no {SEAL.name} (an earlier version wrote it): it cannot be checked.")
        return unsealed[0]
    return None


def from_first(make: Callable[[], str | None]) -> str | None:
    """What the first process makes, on every process: one short hash or None."""
    made = make() if jax.process_index() == 0 else None
    if jax.process_count() == 1:
        return made
    letters = np.frombuffer((made or "").ljust(64).encode(), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(letters), np.uint8)).decode().strip() or None


def record(workdir: str | Path, step: int) -> dict[str, Any]:
    """What `checkpoint.run_record` wrote into a checkpoint.

    Raises:
      CheckpointError: it cannot be read.
    """
    file = checkpoints(workdir) / str(step) / "run" / "metadata"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        way = "choose another step, or bring an intact copy there"
        raise CheckpointError(f"the checkpoint of step {step} cannot be read: {file}: {error}; {way}.") from error


def tokenizer(workdir: str | Path, step: int) -> str:
    """The folder of the tokenizer that the run was trained with: its own copy, or where it was."""
    kept = Path(workdir).absolute() / TOKENIZER
    return str(kept) if kept.is_dir() else record(workdir, step)["tokenizer"]


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


def restore_params(workdir: str | Path, step: int | None = None, *, tell: Callable[[str], None] = to_stderr):
    """(model, params, record) of a run on the mesh in scope: of a step, or of the newest good one.

    Raises:
      CheckpointError: the folder has no checkpoint, or not that one, or it is damaged.
    """
    step = chosen(workdir, step, tell=tell)
    run = record(workdir, step)
    largest = run.get("value_head")
    model = models.build(model_config(run["model"]), None if largest is None else ValueHeadConfig(max_value=largest))
    abstract = jax.tree.map(
        lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding.named(p)), model.shapes, models.shardings(model)
    )
    section = run["config"]["model"]
    trained = section["trainable"] if "trainable" in section else section["train"]  # its name in earlier versions
    parts = {"trainable": abstract}
    if trained != "all":
        parts = {"trainable": {trained: abstract.pop(trained)}, "frozen": abstract}
    trees = read(workdir, step, parts)
    return model, {key: leaf for name in parts for key, leaf in trees[name].items()}, run


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
    folder = checkpoints(workdir) / str(step)
    damage = SEAL.damage(folder) if SEAL.is_in(folder) else ""
    if damage:
        others = [other for other in there if other != step]
        way = f"choose another step: {others}" if others else "bring an intact copy there"
        raise CheckpointError(f"the checkpoint of step {step} is damaged: {folder}: {damage}; {way}.")
    return step


def parse_step(text: str | None, workdir: str | Path) -> int | None:
    """The step that "RUN@STEP" or "RUN@best" names; None for a run alone.

    Raises:
      ValueError: it is neither a number nor "best", or no checkpoint has the metric that decides what is best.
    """
    if text != "best":
        if text is not None and not text.isdigit():
            raise ValueError(f"{workdir}@{text}: after @ comes the step of a checkpoint, or best.")
        return None if text is None else int(text)
    there = steps(workdir)
    if not there:
        raise CheckpointError(no_run(Path(workdir)))
    metric = record(workdir, there[-1])["config"]["train"]["best_metric"]
    values = losses(workdir, metric)
    if not values:
        raise ValueError(f"{workdir}@best: none of its checkpoints {there} was evaluated by {metric}; name one by its step.")
    return best(values)[-1]


def losses(workdir: str | Path, metric: str) -> dict[int, float]:
    """Step -> the value of a held-out metric, where it is finite; less is better, and the sign of "-NAME" is turned round.

    Raises:
      CheckpointError: a record cannot be read.
    """
    name, sign = metric.removeprefix("-"), -1.0 if metric.startswith("-") else 1.0
    values = {step: (record(workdir, step).get("metrics") or {}).get(name) for step in steps(workdir)}
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

"""Checkpoints: train state, data position, config and metrics in one atomic orbax save, asynchronously.

WORKDIR/checkpoints/STEP holds the items `trainable` (the parameters that are trained), `frozen` (those that are not, if any), `rest`
(reference, optimizer, RNG, step) and `run` (config, model config, data position). A save that did not finish leaves a temporary folder
that no start ever reads.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import fcntl
import json
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jaxalign import sharding
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig, RopeScaling
from jaxalign.models.heads import ValueHeadConfig
from jaxalign.training.reference import Table
from jaxalign.types import TrainState


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; says which one is the last good one and what to do."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
      workdir: folder of the run.
      keep_last: newest checkpoints to keep.
      keep_best: best ones to keep beside them, by `metric`.
      metric: name of a held-out metric, less is better; "-NAME" if more is better.
    """

    def __init__(self, workdir: str | Path, *, keep_last: int = 2, keep_best: int = 0, metric: str = "loss"):
        self.folder = Path(workdir).absolute() / "checkpoints"
        name, sign = metric.removeprefix("-"), (1.0 if metric.startswith("-") else -1.0)

        def goodness(metrics: dict[str, float]) -> float:
            return sign * metrics[name]

        self._metric = name if keep_best else None
        policies = [checkpoint_managers.LatestN(keep_last)]
        if keep_best:
            policies.append(checkpoint_managers.BestN(get_metric_fn=goodness, n=keep_best, keep_checkpoints_without_metrics=False))
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                # orbax's own schedule is off: the loop decides
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                cleanup_tmp_directories=True,
                # without it orbax does not write the metrics, and a resumed run could not tell which old checkpoint is best
                best_fn=goodness if keep_best else None,
            ),
        )

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, *, step: int, run: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
        """Starts a save and returns; the arrays are copied first, so the state may be donated. A save under way is waited for.

        Args:
          run: JSON-able; `run_record` makes it.
          metrics: the held-out metrics of this very step, None if it was not evaluated.

        Raises:
          CheckpointError: this save could not start or the one before did not finish.
        """
        parts = {name: ocp.args.StandardSave(part) for name, part in _parts(state).items()}
        items = ocp.args.Composite(**parts, run=ocp.args.JsonSave(run))
        try:
            self._manager.wait_until_finished()
            self._manager.save(step, args=items, metrics=metrics, force=True)
        except Exception as error:  # orbax hands on whatever the file system raised
            raise self._failed(error) from error

    def wait(self) -> None:
        """Returns when the save under way is on disk.

        Raises:
          CheckpointError: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def check_metrics(self, metrics: dict[str, float]) -> None:
        """Raises ValueError where the metric that decides what is best is not among these held-out metrics."""
        if self._metric is not None and self._metric not in metrics:
            raise ValueError(f"train.best_metric={self._metric!r} is no held-out metric here; there are {', '.join(sorted(metrics))}.")

    def read_run(self, step: int) -> dict[str, Any]:
        """The `run` record of a checkpoint.

        Raises:
          CheckpointError: it cannot be read.
        """
        try:
            return self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
        except Exception as error:
            raise self._unreadable(step, error) from error

    def restore(self, abstract: TrainState, step: int) -> TrainState:
        """The state of a checkpoint, laid out as `abstract` says: on any mesh, whatever mesh it was saved from.

        Raises:
          CheckpointError: it cannot be read.
        """
        items = ocp.args.Composite(**{name: ocp.args.StandardRestore(part) for name, part in _parts(abstract).items()})
        try:
            restored = self._manager.restore(step, args=items)
        except Exception as error:
            raise self._unreadable(step, error) from error
        rest = {"reference": None, **restored["rest"]}
        if isinstance(abstract.reference, Table):
            rest["reference"] = Table(**rest["reference"])
        return TrainState(trainable=restored["trainable"], frozen=restored.get("frozen"), **rest)

    def close(self) -> None:
        """Waits for the save under way and lets go of the folder."""
        self.wait()
        self._manager.close()

    def _unreadable(self, step, error):
        older = [other for other in self.steps() if other < step]
        then = f"continue from step {older[-1]}" if older else "start anew, there is no older one"
        return CheckpointError(
            f"the checkpoint {self.folder / str(step)} cannot be read ({str(error).strip().splitlines()[0][:200]}); "
            f"delete that folder to {then}."
        )

    def _failed(self, error):
        kept = _steps(self.folder)
        last = f"the last good checkpoint is step {kept[-1]}" if kept else "there is no earlier checkpoint"
        return CheckpointError(
            f"a checkpoint could not be written to {self.folder}: {error}; {last}. "
            "Free some space (or choose another --workdir) and start again with the same command: the run continues from there."
        )


def _parts(state: TrainState) -> dict[str, Any]:
    """Item name -> tree. What is empty is left out: orbax has no empty trees."""
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    if isinstance(state.reference, Table):
        parts["reference"] = {"logps": state.reference.logps}
    rest = {name: value for name, value in parts.items() if jax.tree.leaves(value)}
    apart = {name: rest.pop(name) for name in ("trainable", "frozen") if name in rest}
    return {**apart, "rest": rest}


@contextlib.contextmanager
def only_run(workdir: str | Path) -> Iterator[None]:
    """Makes the folder of a run and keeps every other run out of it meanwhile; among several processes the first one holds the lock.

    Raises:
      ValueError: another process trains there.
    """
    Path(workdir).mkdir(parents=True, exist_ok=True)
    with open(Path(workdir) / ".lock", "a") as lock:
        if jax.process_index() == 0:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another process is training in {workdir}; wait for it, or choose another --workdir.") from None
        yield


def run_record(
    config: dict, model: models.Model, tokenizer: str, *, step: int, prepared: list[str], metrics: dict[str, float] | None
) -> dict[str, Any]:
    """What a checkpoint says of its run.

    The data position is (seed, step) in the prepared sets, whose names are hashes of their content: a batch is a pure function of these.
    """
    record = {
        "config": config,
        "model": dataclasses.asdict(model.config),
        "value_head": config["model"]["value_head"],
        "tokenizer": str(Path(tokenizer).absolute()),
        "data": {"seed": config["seed"], "step": step, "prepared": prepared},
        "metrics": metrics,
    }
    return json.loads(json.dumps(record))


def abstract_like(shapes):
    """ShapeDtypeStructs on the concrete mesh in scope from what `jax.eval_shape` returned (whose mesh is abstract)."""
    mesh = jax.sharding.get_mesh()

    def place(x):
        partition = x.sharding.spec if x.sharding is not None else sharding.spec()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, partition))

    return jax.tree.map(place, shapes)


def newest(workdir: str | Path) -> Path:
    """The folder of a run's newest complete checkpoint.

    Raises:
      CheckpointError: there is none.
    """
    folder = Path(workdir).absolute() / "checkpoints"
    steps = _steps(folder)
    if not steps:
        raise CheckpointError(f"{folder} holds no checkpoint; give the --workdir of a run that has saved one.")
    return folder / str(steps[-1])


def _steps(folder):
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def restore_params(workdir: str | Path, step: int | None = None):
    """(model, params, what `run_record` said) of a run, on the mesh in scope; the newest checkpoint where no step is given.

    Raises:
      CheckpointError: the folder holds no checkpoint, or not that one, or it cannot be read.
    """
    folder = Path(workdir).absolute() / "checkpoints"
    steps = _steps(folder)
    if not steps:
        raise CheckpointError(f"there is no run in {workdir}; give the --workdir of one that has saved a checkpoint.")
    if step is not None and step not in steps:
        raise CheckpointError(f"{folder} holds checkpoints of steps {steps}, not {step}; give a step it has.")
    at = steps[-1] if step is None else step

    def read(manager, **items):
        try:
            return manager.restore(at, args=ocp.args.Composite(**items))
        except Exception as error:  # whatever orbax makes of a damaged file
            first = str(error).strip().splitlines()[0][:200]
            raise CheckpointError(f"the checkpoint {folder / str(at)} cannot be read ({first}); give another --step of {steps}.") from error

    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(read_only=True)) as manager:
        run = read(manager, run=ocp.args.JsonRestore())["run"]
        largest = run.get("value_head")
        model = models.build(_model_config(run["model"]), None if largest is None else ValueHeadConfig(max_value=largest))
        abstract = jax.tree.map(
            lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding.named(p)), model.shapes, models.shardings(model)
        )
        trained = run["config"]["model"]["trainable"]
        parts = {"trainable": abstract}
        if trained != "all":
            parts = {"trainable": {trained: abstract.pop(trained)}, "frozen": abstract}
        found = read(manager, **{name: ocp.args.StandardRestore(part) for name, part in parts.items()})
        params = {key: leaf for name in parts for key, leaf in found[name].items()}
    return model, params, run


def _model_config(record: dict[str, Any]) -> ModelConfig:
    nested = {"rope_scaling": RopeScaling(**record["rope_scaling"]), "windows": tuple(record["windows"])}
    return ModelConfig(**{**record, **nested})

"""Checkpoints: train state, data position, config and metrics in one atomic orbax save, asynchronously.

WORKDIR/checkpoints/STEP holds three items: `trainable` (the parameters), `rest` (reference, optimizer, RNG, step) and `run` (config, model
config, data position). A save that did not finish leaves a temporary folder that no start ever reads.
"""

import dataclasses
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
        policies = [checkpoint_managers.LatestN(keep_last)]
        if keep_best:
            name, sign = metric.removeprefix("-"), (1.0 if metric.startswith("-") else -1.0)
            policies.append(
                checkpoint_managers.BestN(get_metric_fn=lambda m: sign * m[name], n=keep_best, keep_checkpoints_without_metrics=False)
            )
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                # orbax's own schedule is off: the loop decides
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                cleanup_tmp_directories=True,
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
          metrics: the newest held-out metrics.

        Raises:
          CheckpointError: this save could not start or the one before did not finish.
        """
        parts = _parts(state)
        items = ocp.args.Composite(
            trainable=ocp.args.StandardSave(parts.pop("trainable")), rest=ocp.args.StandardSave(parts), run=ocp.args.JsonSave(run)
        )
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

    def read_run(self, step: int) -> dict[str, Any]:
        """The `run` record of a checkpoint."""
        return self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]

    def restore(self, abstract: TrainState, step: int) -> TrainState:
        """The state of a checkpoint, laid out as `abstract` says: on any mesh, whatever mesh it was saved from."""
        parts = _parts(abstract)
        items = ocp.args.Composite(
            trainable=ocp.args.StandardRestore(parts.pop("trainable")), rest=ocp.args.StandardRestore(parts)
        )
        restored = self._manager.restore(step, args=items)
        return TrainState(trainable=restored["trainable"], **{"reference": None, **restored["rest"]})

    def close(self) -> None:
        """Waits for the save under way and lets go of the folder."""
        self.wait()
        self._manager.close()

    def _failed(self, error):
        kept = sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit()) if self.folder.is_dir() else []
        last = f"the last good checkpoint is step {kept[-1]}" if kept else "there is no earlier checkpoint"
        return CheckpointError(
            f"a checkpoint could not be written to {self.folder}: {error}; {last}. "
            "Free some space (or choose another --workdir) and start again with the same command: the run continues from there."
        )


def _parts(state: TrainState) -> dict[str, Any]:
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in parts.items() if value is not None}


def run_record(config: dict, model: models.Model, tokenizer: str, step: int) -> dict[str, Any]:
    """What a checkpoint says of its run. The data position is (seed, step): a batch is a pure function of the two."""
    record = {
        "config": config,
        "model": dataclasses.asdict(model.config),
        "tokenizer": str(tokenizer),
        "data": {"seed": config["seed"], "step": step},
    }
    return json.loads(json.dumps(record))


def abstract_like(shapes):
    """ShapeDtypeStructs on the concrete mesh in scope from what `jax.eval_shape` returned (whose mesh is abstract)."""
    mesh = jax.sharding.get_mesh()

    def place(x):
        partition = x.sharding.spec if x.sharding is not None else sharding.spec()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, partition))

    return jax.tree.map(place, shapes)


def restore_params(workdir: str | Path, step: int | None = None):
    """(model, params, tokenizer folder) of a run, on the mesh in scope; the newest checkpoint where no step is given.

    Raises:
      CheckpointError: the folder holds no checkpoint, or not that one.
    """
    folder = Path(workdir).absolute() / "checkpoints"
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []
    if not steps or (step is not None and step not in steps):
        wanted = "any" if step is None else step
        raise CheckpointError(f"{folder} holds checkpoints of steps {steps}, not {wanted}; give the --workdir of a run and a step it has.")
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(read_only=True)) as manager:
        at = steps[-1] if step is None else step
        run = manager.restore(at, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
        model = models.build(_model_config(run["model"]))
        abstract = jax.tree.map(
            lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding.named(p)), model.shapes, models.shardings(model)
        )
        params = manager.restore(at, args=ocp.args.Composite(trainable=ocp.args.StandardRestore(abstract)))["trainable"]
    return model, params, run["tokenizer"]


def _model_config(record: dict[str, Any]) -> ModelConfig:
    nested = {"rope_scaling": RopeScaling(**record["rope_scaling"]), "windows": tuple(record["windows"])}
    return ModelConfig(**{**record, **nested})

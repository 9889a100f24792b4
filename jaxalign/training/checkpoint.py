"""Checkpoints: train state, data position, config and metrics of a step, saved atomically and asynchronously.

WORKDIR/checkpoints/STEP holds the items `trainable` (the parameters that are trained), `frozen` (those that are not, if any), `source`
(what the source of the batches carries, if anything), `rest` (reference, optimizer, RNG, step) and `run` (config, model config, data
position, metrics), and a manifest of their hashes. A save that did not finish leaves a folder of another name, which no start reads. `runs`
reads what is written here.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
import dataclasses
import json
from pathlib import Path
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxalign import sharding
from jaxalign.hosts import folder, watch
from jaxalign.hosts.alone import alone
from jaxalign.models import model as models
from jaxalign.training import runs
from jaxalign.training.mirror import Mirror
from jaxalign.training.roll_back import Skipped
from jaxalign.training.runs import CheckpointError
from jaxalign.types import TrainState

APART = ("trainable", "frozen", "source")  # fields of the state that are items of their own: a reader may do without them
UNFINISHED = ".orbax-checkpoint-tmp"  # part of the name of a save under way
NOTHING_SKIPPED = Skipped()
REMOVED = ".removed-"  # what the name of a checkpoint that is being deleted begins with


class Checkpoints:
    """The checkpoints of one run.

    Args:
      workdir: folder of the run.
      keep_last: newest checkpoints to keep.
      keep_best: best ones to keep beside them, by `metric`. A metric that is missing or not finite is never best.
      metric: name of a held-out metric, less is better; "-NAME" if more is better.
      mirror: address of a folder in an object store that gets a copy of the run, and that the run goes on from where it is further.

    Raises:
      ValueError, CheckpointError: the mirror cannot be used.
    """

    def __init__(self, workdir: str | Path, *, keep_last: int = 2, keep_best: int = 0, metric: str = "loss", mirror: str | None = None):
        self.workdir = Path(workdir).absolute()
        self.folder = runs.checkpoints(workdir)
        self._keep_last, self._keep_best = keep_last, keep_best
        self._metric = metric
        self.good: int | None = None  # the last step whose policy is known to be within train.max_kl
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future | None = None
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in [*self.folder.glob(f"*{UNFINISHED}*"), *self.folder.glob(f"{REMOVED}*")]:
                shutil.rmtree(path, ignore_errors=True)
        self._mirror = Mirror(mirror, self.workdir) if mirror and jax.process_index() == 0 else None
        if self._mirror is not None:
            self._mirror.fetch(tell=runs.to_stderr)

    @property
    def latest(self) -> int | None:
        """Step of the newest finished checkpoint; None if there is none."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """Steps of all finished checkpoints, in order."""
        return runs.steps(self.workdir)

    def newest_known_good(self) -> int | None:
        """Step of the newest finished checkpoint that is not after `good`, which is kept; None if there is none."""
        return None if self.good is None else max((step for step in self.steps() if step <= self.good), default=None)

    def begin(self, *, tell: Callable[[str], None] = runs.to_stderr) -> int | None:
        """The step to continue from: the newest good one; None where there is none yet.

        Newer checkpoints, which are damaged, are moved to WORKDIR/damaged, so that these steps can be saved again.

        Raises:
          CheckpointError: all checkpoints are damaged.
        """
        start = runs.newest_good(self.workdir, tell=tell)
        self.good = None if start is None else self.read_run(start).get("good")
        if jax.process_index() == 0 and start is not None:
            for step in (step for step in self.steps() if step > start):
                tell(f"the checkpoint of step {step} was moved to {self._set_aside(step)}; the run continues from step {start}.")
        watch.barrier("the checkpoint to begin with", limited=False)
        return start

    def pass_over(self, step: int, reason: str, *, tell: Callable[[str], None] = runs.to_stderr) -> None:
        """Moves a checkpoint to WORKDIR/damaged for a reason that follows its name. All processes call it."""
        watch.barrier("the checkpoint to pass over", limited=False)  # all have read it
        if jax.process_index() == 0:
            tell(f"the checkpoint of step {step} {reason}; it is passed over and was moved to {self._set_aside(step)}.")

    def save(self, state: TrainState, *, step: int, run: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
        """Starts a save and returns; the arrays are copied first, so the state may be donated. A save under way is waited for.

        Args:
          run: JSON-able; `run_record` makes it.
          metrics: the held-out metrics of this very step, None if it was not evaluated.

        Raises:
          CheckpointError: this save could not start or the one before did not finish.
        """
        self.wait()
        parts = {name: ocp.args.StandardSave(part) for name, part in _parts(state).items()}
        items = ocp.args.Composite(**parts, run=ocp.args.JsonSave({**run, "metrics": metrics, "good": self.good}))
        try:
            self._make_folder()
            self._writer.save(self.folder / str(step), args=items)
        except Exception as error:  # orbax hands on whatever the file system raised
            raise self._failed(error) from error
        self._under_way = self._thread.submit(self._finish, step)

    def wait(self) -> None:
        """Returns when the save under way is on disk.

        Raises:
          CheckpointError: it could not be written.
        """
        under_way, self._under_way = self._under_way, None
        try:
            if under_way is not None:
                under_way.result()
        except Exception as error:
            raise self._failed(error) from error

    def read_run(self, step: int) -> dict[str, Any]:
        """The `run` record of a checkpoint.

        Raises:
          CheckpointError: it cannot be read.
        """
        return runs.record(self.workdir, step)

    def restore(self, abstract: TrainState, step: int) -> TrainState:
        """The state of a checkpoint, laid out as `abstract` specifies: on any mesh, whatever mesh it was saved from.

        Raises:
          CheckpointError: it cannot be read.
        """
        return restore(self.workdir, abstract, step)

    def close(self) -> None:
        """Waits for the save under way and lets go of the folder."""
        self.wait()
        self._thread.shutdown()
        self._writer.close()

    def copy(self) -> None:
        """Brings the copy in the object store up to date, where the run has one.

        Raises:
          CheckpointError: it could not be written.
        """
        if self._mirror is not None:
            self._mirror.copy()

    def _set_aside(self, step) -> Path:
        aside = runs.unused(self.workdir / "damaged" / str(step))
        aside.parent.mkdir(exist_ok=True)
        return (self.folder / str(step)).rename(aside)

    def _make_folder(self):
        """Makes the folder where it is gone: what is in memory is worth more than what somebody has taken away."""
        if jax.process_index() == 0 and not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            runs.to_stderr(f"{self.folder} was gone, with all checkpoints in it; it was made anew.")

    def _finish(self, step):
        """Waits for the files of a save, seals them with their manifest, and then only removes what need not be kept."""
        self._writer.wait_until_finished()
        if jax.process_index() == 0:
            runs.SEAL.write(self.folder / str(step))
            for other in sorted(set(self.steps()) - self._kept()):
                removed = self.folder / f"{REMOVED}{other}"
                (self.folder / str(other)).rename(removed)  # a folder that is half deleted is no checkpoint
                shutil.rmtree(removed)
            try:
                self.copy()
            except CheckpointError as error:  # the run itself needs no copy: the next save tries again, and the end of the run insists
                runs.to_stderr(f"{error}")

    def _kept(self) -> set[int]:
        """The steps to keep: the newest, the newest known good, the best; all where a record cannot be read, so that nobody can judge."""
        there = self.steps()
        kept = {*there[-self._keep_last :], self.newest_known_good()} - {None}
        if not self._keep_best:
            return kept
        try:
            return {*kept, *runs.best(runs.losses(self.workdir, self._metric, there))[-self._keep_best :]}
        except CheckpointError:
            return set(there)

    def _failed(self, error):
        kept = [step for step in self.steps() if not runs.damage(self.workdir, step, only=lambda name: False)]  # and sealed
        last = f"the last good checkpoint is step {kept[-1]}" if kept else "there is no earlier checkpoint"
        return CheckpointError(
            f"a checkpoint could not be written to {self.folder}: {error}; {last}. See that the folder is there, may be written to and has "
            "space, and start again with the same command: the run continues from there."
        )


def restore(workdir: str | Path, abstract: TrainState, step: int) -> TrainState:
    """The state of a checkpoint of the run in `workdir`, laid out as `abstract` specifies.

    Raises:
      CheckpointError: it cannot be read.
    """
    restored = runs.read(workdir, step, _parts(abstract))
    apart = {name: restored[name] for name in APART if name in restored}
    return abstract.replace(**apart, **restored["rest"])  # what has no arrays is in no item


def _parts(state: TrainState) -> dict[str, Any]:
    """Item name -> tree. What is empty is left out: orbax has no empty trees."""
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    rest = {name: value for name, value in parts.items() if jax.tree.leaves(value)}
    apart = {name: rest.pop(name) for name in APART if name in rest}
    return {**apart, "rest": rest}


@contextlib.contextmanager
def only_run(workdir: str | Path) -> Iterator[None]:
    """Makes the folder of a run and keeps every other run out of it meanwhile; among several processes the first one holds the lock.

    Raises:
      ValueError: another process trains there, or not all processes of this run see it.
    """
    Path(workdir).mkdir(parents=True, exist_ok=True)
    refusal = f"another process is training in {workdir}; wait for it, or choose another --workdir."
    with contextlib.nullcontext() if jax.process_index() else alone(Path(workdir) / ".lock", refusal):
        folder.check_seen_by_all(workdir)
        yield


def run_record(
    config: dict,
    model: models.Model,
    tokenizer: str,
    *,
    step: int,
    prepared: list[str],
    weights: str | None = None,
    tokenizer_files: dict[str, list] | None = None,
    teacher: str | None = None,
    skipped: Skipped = NOTHING_SKIPPED,
    base: dict[str, Any] | None = None,
    reward: str | None = None,
) -> dict[str, Any]:
    """What a checkpoint records of its run.

    Args:
      tokenizer: where it came from.
      weights: a hash of those that the run started from.
      base: what the adapters stand on, with the hash of its weights; None where there are none.
      teacher: a hash of the weights of a reference that is another model, which no checkpoint holds.
      reward: a hash of the files that the reward of rollouts is made of; None where there are none.
      tokenizer_files: what the files of the run's own copy of the tokenizer are like, as `manifest.describe` gives it.
      skipped: batches that the run went past when it rolled back.

    The data position is (seed, step + skipped batches) in the prepared sets, whose names are hashes of their content: a batch is a pure
    function of these.
    """
    record = {
        "config": config,
        "model": runs.model_record(model.config),
        "value_head": config["model"]["value_head"],
        "reward_head": config["model"]["reward_head"],
        "critic": config["model"]["critic"],
        "critic_model": model.critic_decoder and runs.model_record(model.critic_decoder.config),
        "base_dtype": model.base_dtype,
        "weights": weights,
        "base": base,
        "teacher": teacher,
        "reward": reward,
        "tokenizer": str(Path(tokenizer).absolute()),
        "tokenizer_files": tokenizer_files,
        "data": {"seed": config["seed"], "step": step, "prepared": prepared, "skipped": dataclasses.asdict(skipped)},
    }
    return json.loads(json.dumps(record))


def abstract_like(shapes):
    """ShapeDtypeStructs on the mesh in scope, see `sharding.named`, from what `jax.eval_shape` returned (whose mesh is abstract)."""

    def place(x):
        partition = x.sharding.spec if x.sharding is not None else sharding.spec()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.named(partition))

    return jax.tree.map(place, shapes)

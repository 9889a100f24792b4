"""A run's folder is taken away, becomes read-only or slow, or gets another run's checkpoint: what can be kept is kept, the rest told."""

import errno
import json
import os
import shutil
import threading

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxalign.config import resume
from jaxalign.reports.log import RunLog
from jaxalign.training import runs
from jaxalign.training.checkpoint import Checkpoints
from jaxalign.types import TrainState

NOTHING = dict.fromkeys(TrainState.__dataclass_fields__)


def save(saved, step, seed=0):
    state = TrainState(**NOTHING | {"trainable": {"w": jnp.full((4,), float(step))}, "step": jnp.int32(step)})
    config = {"seed": seed, "train": {"best_metric": "loss", "total_steps": 9}}
    saved.save(state, step=step, run={"config": config, "data": {"step": step}})


def weights(workdir, step):
    with ocp.StandardCheckpointer() as reader:
        return np.asarray(reader.restore(runs.checkpoints(workdir) / str(step) / "trainable")["w"])


@pytest.fixture
def saved(tmp_path):
    """The checkpoints of a run that has saved step 1."""
    saved = Checkpoints(tmp_path / "run", keep_last=9)
    save(saved, 1)
    saved.wait()
    yield saved
    saved.close()


def test_a_folder_that_is_gone_is_made_anew_and_gets_what_is_in_memory(saved, capsys):
    shutil.rmtree(saved.workdir)
    save(saved, 2)
    saved.wait()
    assert f"{saved.folder} was gone, with all checkpoints in it; it was made anew." in capsys.readouterr().err
    assert saved.steps() == [2] and (weights(saved.workdir, 2) == 2).all() and not runs.damage(saved.workdir, 2)


def test_a_folder_that_goes_during_a_save_is_told_with_what_is_left(saved, monkeypatch):
    wait = saved._writer.wait_until_finished

    def gone():
        wait()
        shutil.rmtree(saved.folder)

    monkeypatch.setattr(saved._writer, "wait_until_finished", gone)
    save(saved, 2)
    with pytest.raises(runs.CheckpointError, match="could not be written to .*; there is no earlier checkpoint. See that the folder is"):
        saved.wait()
    monkeypatch.undo()
    save(saved, 3)  # the next one is whole
    saved.wait()
    assert saved.steps() == [3]


def test_a_folder_that_can_not_be_made_again_is_told(saved):
    shutil.rmtree(saved.folder)
    saved.folder.write_text("")
    with pytest.raises(runs.CheckpointError, match="could not be written to .*File exists.*there is no earlier checkpoint"):
        save(saved, 2)
    saved.folder.unlink()


@pytest.mark.parametrize("moment", ["the arrays", "the manifest"])
def test_a_folder_that_became_read_only_keeps_its_checkpoints_and_gets_the_next_when_it_is_writable(saved, monkeypatch, moment):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(saved.folder))

    if moment == "the arrays":
        monkeypatch.setattr(saved._writer, "save", refuse)
    else:
        monkeypatch.setattr(os, "fsync", refuse)
    words = "Read-only file system.*the last good checkpoint is step 1. See that the folder is there, may be written to"
    with pytest.raises(runs.CheckpointError, match=words):
        save(saved, 2)
        saved.wait()
    monkeypatch.undo()
    assert Checkpoints(saved.workdir).begin(tell=lambda line: None) == 1
    save(saved, 2)
    saved.wait()
    assert runs.newest_good(saved.workdir, tell=pytest.fail) == 2


def test_a_slow_disk_stops_no_step_and_loses_no_save(saved, monkeypatch):
    disk, write = threading.Event(), runs.SEAL.__class__.write
    monkeypatch.setattr(runs.SEAL.__class__, "write", lambda *arguments: (disk.wait(60), write(*arguments)))
    save(saved, 2)  # returns while the disk is still busy
    assert not runs.SEAL.is_in(saved.folder / "2") and not disk.is_set()
    threading.Timer(0.2, disk.set).start()
    save(saved, 3)  # waits for the one before
    assert disk.is_set() and runs.SEAL.is_in(saved.folder / "2")
    saved.wait()
    assert runs.newest_good(saved.workdir, tell=pytest.fail) == 3
    assert [float(weights(saved.workdir, step)[0]) for step in (1, 2, 3)] == [1, 2, 3]


@pytest.mark.parametrize(("seeds", "now", "start"), [
    ((0, 0, 1), 0, 2),  # the newest is another run's
    ((0, 1, 1), 0, 1),
    ((0, 0, 0), 1, 3),  # the command is another run's: `check_same_run` says so
    ((1, 1, 0), 0, 3),  # the older ones are
])  # fmt: skip
def test_a_checkpoint_of_another_run_is_named_and_passed_over(saved, seeds, now, start, capsys):
    for step, seed in enumerate(seeds, 1):
        shutil.rmtree(saved.folder / str(step), ignore_errors=True)
        save(saved, step, seed)
    saved.wait()
    config = {"seed": now, "train": {"best_metric": "loss", "total_steps": 9}}
    assert resume._start(saved, config) == start and saved.steps() == list(range(1, start + 1))
    told = capsys.readouterr().err
    for step in range(start + 1, 4):
        assert f"the checkpoint of step {step} is of a run with other settings than the checkpoint of step {start}" in told
        assert (saved.workdir / "damaged" / str(step)).is_dir()


def test_a_log_that_is_gone_is_begun_anew(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    log = RunLog(tmp_path / "run", start_step=0, total_steps=2, wandb=False, name="x", config={}, quiet=False)
    log.metrics("train", 0, {"loss": 1.0})
    log.flush()
    shutil.rmtree(tmp_path / "run")
    log.flush()
    log.metrics("train", 1, {"loss": 2.0})
    log.close()
    assert "metrics.jsonl was gone; it was begun anew" in capsys.readouterr().err
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()] == [1]

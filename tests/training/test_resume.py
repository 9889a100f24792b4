"""A run that was killed, stopped or ran out of disk continues as if nothing had been: the same bits at the end."""

import json
from pathlib import Path
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxalign import train
from jaxalign.config import build, files, functions, stages
from jaxalign.training import checkpoint

HERE = Path(__file__).parents[1]
OPTIMIZED = True
CONFIG = str(HERE / "tiny.py")


def arguments(workdir, cache, *overrides):
    return ["--config", CONFIG, "--workdir", str(workdir), f"--config.data.prepared_dir={cache}", *overrides]


def die(moment, step, workdir, cache, *overrides):
    """The finished process of tests/run_and_die.py."""
    command = [sys.executable, str(HERE / "run_and_die.py"), moment, str(step), "--", *arguments(workdir, cache, *overrides)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def final_state(workdir, mesh=(1, 8, 1)):
    """The train state of the last checkpoint, on a mesh, and its step."""
    cfg = stages.resolve_stages(files.load_file(CONFIG))[""]
    cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor = mesh
    with jax.set_mesh(build.mesh(cfg)):
        model = build.model(cfg)
        made = build.functions(cfg, functions.objective(cfg), model, build.Durations(10, 10, 1, 2, 5, 5))
        saved = checkpoint.Checkpoints(workdir)
        state = jax.device_get(saved.restore(build.abstract_state(cfg, model, made.init_state), saved.latest))
        return state, saved.latest


def kept(workdir):
    """Steps of the complete checkpoints. (Opening them would begin to clear away what a cut save left, beside the next start.)"""
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def metrics(workdir):
    """All lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("speed/")} for line in lines]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    assert train.main(arguments(workdir, cache)) == 0
    state, step = final_state(workdir)
    assert step == 10
    return state, metrics(workdir), workdir


def assert_same(uninterrupted, workdir):
    state, lines, _ = uninterrupted
    again, step = final_state(workdir)
    assert step == 10
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=jax.tree_util.keystr(path))
    assert metrics(workdir) == lines


@pytest.mark.slow
def test_kill_in_the_middle_of_a_save_loses_only_that_save(uninterrupted, tmp_path, cache, capsys):
    # saves at 3, 6, 9: the one of step 6 is cut
    every = "--config.train.save_every_steps=3"
    assert die("save", 6, tmp_path, cache, every).returncode == -9
    assert kept(tmp_path) == [3]
    assert train.main(arguments(tmp_path, cache, every)) == 0
    assert "continues at step 3" in capsys.readouterr().err
    assert_same(uninterrupted, tmp_path)


@pytest.mark.slow
def test_sigterm_saves_and_exits_cleanly(uninterrupted, tmp_path, cache):
    stopped = die("sigterm", 3, tmp_path, cache)
    assert stopped.returncode == 0 and "The run stopped; its state is saved" in stopped.stderr, stopped.stderr
    assert max(kept(tmp_path)) == 4
    assert train.main(arguments(tmp_path, cache)) == 0
    assert_same(uninterrupted, tmp_path)


@pytest.mark.slow
def test_a_full_disk_during_a_save_names_the_last_good_checkpoint_and_loses_nothing(uninterrupted, tmp_path, cache):
    full = die("full", 10, tmp_path, cache)
    assert full.returncode == 1, full.stderr
    assert re.search(r"(could not be written|disk is full)", full.stderr), full.stderr
    assert "step 5" in full.stderr or "checkpoints are kept" in full.stderr
    assert max(kept(tmp_path)) == 5
    assert train.main(arguments(tmp_path, cache)) == 0
    assert_same(uninterrupted, tmp_path)


@pytest.mark.slow
def test_resuming_on_another_mesh_and_with_microbatches_gives_the_same_run(uninterrupted, tmp_path, cache):
    (state, _, _), mesh, microbatches = uninterrupted, (1, 2, 2, 2), 2
    assert die("step", 7, tmp_path, cache).returncode == -9
    shape = [f"--config.mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "context", "tensor"), mesh, strict=True)]
    assert train.main(arguments(tmp_path, cache, *shape, f"--config.batch.gradient_accumulation_steps={microbatches}")) == 0
    again, step = final_state(tmp_path)
    assert step == 10
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(again.trainable), jax.tree.leaves(state.trainable), strict=True):
        # Adam divides by the gradient's own size: where that is near 0, rounding shows as a share of an update, here of 1e-3 at most
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4, err_msg=jax.tree_util.keystr(path))
        assert np.abs(ours - theirs).mean() < 1e-6 * np.abs(theirs).max()


@pytest.mark.slow
def test_a_run_is_not_continued_with_other_settings(uninterrupted, cache, capsys):
    _, _, workdir = uninterrupted
    assert train.main(arguments(workdir, cache, "--config.optimizer.learning_rate=0.5")) == 1
    assert "optimizer.learning_rate: 0.001 -> 0.5" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_run_started_again_does_nothing_and_says_so(uninterrupted, cache, capsys):
    _, lines, workdir = uninterrupted
    assert train.main(arguments(workdir, cache)) == 0
    assert "continues at step 10" in capsys.readouterr().err
    assert metrics(workdir) == lines

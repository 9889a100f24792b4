"""Whole runs on rollouts: continued, killed in a save, on two processes; the trainer and the sampler agree on log-probs."""

import json
import os
from pathlib import Path
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import several_processes

from jaxalign import train
from jaxalign.sampling.sampler import Sampler
from jaxalign.training import runs

CONFIG = str(Path(__file__).parent / "spoken.py")
DIE = str(Path(__file__).parents[1] / "run_and_die.py")


def arguments(workdir, objective, *settings):
    return ["--config", f"{CONFIG}:{objective}", "--workdir", str(workdir), *(f"--config.{setting}" for setting in settings)]


def start(workdir, objective="grpo", *settings):
    """The lines of metrics of a run that ends well."""
    assert train.main(arguments(workdir, objective, *settings)) == 0
    return lines_of(workdir)


def lines_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("speed/")} for line in lines]


def stop_at(workdir, step):
    """The run as if it had been killed after the save of this step."""
    for later in runs.steps(workdir):
        if later > step:
            shutil.rmtree(runs.checkpoints(workdir) / str(later))


def reward(name):
    return f"data.rollout.reward={CONFIG}:{name}"


def window_of(workdir):
    """The first batch of the window that the newest checkpoint holds, on the host."""
    folder = runs.checkpoints(workdir) / str(runs.steps(workdir)[-1])
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.StandardCheckpointer() as reader:  # of processes whose devices are not here, too
        saved = reader.metadata(folder / "source").item_metadata.tree
        window = reader.restore(folder / "source", jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), saved))
    return jax.tree.map(lambda x: np.asarray(x)[0], window)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, start(workdir)


@pytest.mark.slow
def test_the_first_step_of_a_window_is_on_the_policy_that_drew_it_and_every_batch_comes_again(finished):
    _, lines = finished
    assert [line["step"] for line in lines] == list(range(8))
    assert [line["ratios/mean"] == 1 for line in lines] == [True, False, False, False] * 2
    assert ["rollout/reward" in line for line in lines] == [True, False, False, False] * 2
    first, second = lines[::4]
    assert first["rollout/kl"] == pytest.approx(0, abs=1e-6) and second["rollout/kl"] > 1e-3
    assert first["rollout/tokens"] <= 8 and first["rollout/reward_std"] > 0


@pytest.mark.slow
def test_a_run_that_is_continued_in_the_second_visit_of_a_windows_batches_equals_one_that_was_not_stopped(finished, tmp_path):
    workdir, whole = finished
    shutil.copytree(workdir, tmp_path / "again")
    stop_at(tmp_path / "again", 3)
    assert start(tmp_path / "again") == whole


@pytest.mark.slow
def test_a_run_that_was_killed_in_a_save_goes_on_from_the_save_before(finished, tmp_path):
    killed = subprocess.run([sys.executable, DIE, "save", "6", "--", *arguments(tmp_path, "grpo")], capture_output=True)
    assert killed.returncode == -9 and 5 <= runs.steps(tmp_path)[-1] <= 6, killed.stderr
    assert start(tmp_path) == finished[1]


@pytest.mark.slow
def test_a_window_is_continued_with_the_rewards_that_it_had_and_a_reward_of_other_content_is_named(tmp_path, capfd):
    file = Path(shutil.copy(CONFIG, tmp_path / "mine.py"))
    settings = f"data.rollout.reward={file}:noise", "train.total_steps=4"  # no function of the texts
    whole = start(tmp_path, "grpo", *settings)
    assert "other content" not in capfd.readouterr().err
    stop_at(tmp_path, 1)
    file.write_text(file.read_text() + "\n")
    assert start(tmp_path, "grpo", *settings) == whole
    assert "mine.py:noise' has other content than when the checkpoint of step 1 was written" in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_whose_policy_goes_too_far_ends_with_its_kl_in_the_log_and_keeps_its_checkpoints(tmp_path, capfd):
    assert train.main(arguments(tmp_path, "grpo", "train.max_kl=1e-4", "train.save_every_steps=2")) == 1
    assert "at step 4, more than train.max_kl=0.0001; no checkpoint is of a policy within it. Pull harder" in capfd.readouterr().err
    assert lines_of(tmp_path)[-1]["rollout/kl"] > 1e-3 and runs.steps(tmp_path)[-1] in (2, 4)


@pytest.mark.slow
def test_the_log_probs_of_the_sampler_are_those_that_the_trainer_computes(tmp_path, monkeypatch):
    drawn, draw = {}, Sampler.draw

    def seen(self, params, prompts, **options):
        for sample in draw(self, params, prompts, **options):
            drawn[tuple(sample.token_ids.tolist())] = sample.logps
            yield sample

    monkeypatch.setattr(Sampler, "draw", seen)
    start(tmp_path, "grpo", "train.total_steps=1")
    window, compared = window_of(tmp_path), 0
    for tokens, slots, trained in zip(window["tokens"], window["slots"], window["columns"]["rollout_logps"], strict=True):
        for slot in set(slots[slots >= 0].tolist()):
            own = slots == slot
            np.testing.assert_allclose(trained[own], drawn[tuple(tokens[own].tolist())], atol=1e-5)
            compared += 1
    assert compared > 10


@pytest.mark.slow
def test_other_feedback_trains_other_objectives(tmp_path):  # ppo: test_critic_runs
    lines = start(tmp_path, "kto", "train.total_steps=2", "data.rollout.epochs=1", "data.rollout.every_steps=1")
    assert len(lines) == 2 and all(np.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)
    assert lines[1]["rollout/kl"] > 0 and lines[1]["rollout/stopped"] <= 1


@pytest.mark.slow
def test_two_processes_draw_the_rollouts_of_one(finished, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    two = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2"]
    command = [sys.executable, "-m", "jaxalign.train", *arguments(tmp_path, "grpo"), *two]
    options = {"env": {**os.environ, "XLA_FLAGS": several_processes.flags(4)}, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, "--process", str(i)], **options) for i in range(2)]
    try:
        messages = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], messages
    for ours, theirs in zip(lines_of(tmp_path), finished[1], strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"split"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
    ours, theirs = window_of(tmp_path), window_of(finished[0])
    for name in ("tokens", "slots", "reward", "valid"):
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)

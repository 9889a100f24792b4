"""A run that rolls back goes on as if the batches that it skips had never been there, also where it is killed afterwards."""

import json
import math
import shutil
import sys

import bad_batches
import jax
import numpy as np
import pytest
import several_processes

from jaxalign import sharding, train
from jaxalign.training import guards, runs, sources
from jaxalign.training.roll_back import RollBack, Skipped

ROLL_BACK = ("train.on_nan=roll_back",)


class Saved:
    """Of a run with one checkpoint, of step 4, before which batches 1 and 2 were skipped."""

    latest = 4

    def wait(self):
        pass

    def begin(self):
        return self.latest

    def read_run(self, step):
        return {"data": {"step": step, "skipped": {"ranges": [[1, 3]], "times": 1}}}


def policy(most=3):
    return guards.Policy("roll_back", "roll_back", 5.0, max_roll_backs=most, learning_rate=0.1)


@pytest.mark.parametrize(("values", "words"), [
    ({"loss": float("nan"), "grad_norm": 1.0}, "loss is nan at step 7"),
    ({"loss": 1.0, "grad_norm": 6.0}, "grad_norm is 6, more than train.spike_grad_norm=5, at step 7"),
])  # fmt: skip
def test_a_step_that_goes_wrong_is_reported_with_its_number(values, words):
    with pytest.raises(RollBack, match=words):
        policy().check(values, 7, checked=(5, 9), saved=Saved())
    policy().check({"loss": 1.0, "grad_norm": 4.0}, 7, checked=(5, 9), saved=Saved())


def test_what_is_skipped_lies_between_the_checkpoint_and_the_bad_batch():
    known = Skipped(((1, 3),), 1)
    step, skipped, told = policy().back(RollBack("loss is nan", 7), known, Saved())
    assert (step, skipped) == (4, Skipped(((1, 3), (6, 10)), 2))  # step 4 trains on batch 6, step 7 on batch 9
    assert skipped.batch(step) == 10
    assert told == "loss is nan at step 7: the run goes back to step 4 and skips the 4 batches 6 to 9 (roll back 2 of at most 3)."
    # once more to the same checkpoint: what was skipped first is among what is skipped then
    assert policy().back(RollBack("loss is nan", 5), skipped, Saved())[:2] == (4, Skipped(((1, 3), (6, 12)), 3))


def test_a_run_rolls_back_as_often_as_it_may_and_then_stops():
    with pytest.raises(FloatingPointError, match=r"at step 7; .*rolled back 2 times, .*max_roll_backs=2 .*good checkpoint is step 4"):
        policy(most=2).back(RollBack("loss is nan", 7), Skipped(((1, 3), (6, 10)), 2), Saved())


def lines(workdir):
    parsed = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "speed/" not in key} for line in parsed]


def params(workdir):
    with jax.set_mesh(sharding.make_mesh(fsdp=-1)):
        return jax.device_get(sources.restore_params(workdir)[1])


@pytest.fixture(scope="module")
def once():
    return {}


@pytest.fixture
def start(once, tmp_path_factory, monkeypatch):
    """(folder, settings, bad=batches that turn all to NaN, order=batches of the steps) -> exit code; all runs share a compiled step."""
    cache = once.setdefault("cache", tmp_path_factory.mktemp("prepared"))

    def made(*arguments):
        return once.setdefault("made", bad_batches.FUNCTIONS(*arguments))

    def run(workdir, *settings, bad=(), order=None):
        bad_batches.plant(monkeypatch.setattr, dict.fromkeys(bad, math.nan), order=order, functions=made)
        return train.main(arguments(workdir, cache, *settings))

    return run


def arguments(workdir, cache, *settings):
    flags = [f"--config.{setting}" for setting in settings]
    return ["--config", bad_batches.__file__, "--workdir", str(workdir), f"--config.data.prepared_dir={cache}", *flags]


@pytest.mark.slow
def test_a_run_that_rolls_back_is_one_without_the_batches_that_it_skips_also_when_it_is_killed(start, tmp_path, capsys):
    whole, rolled = tmp_path / "whole", tmp_path / "rolled"
    assert start(whole, order=[0, 1, *range(4, 20)]) == 0
    assert start(rolled, *ROLL_BACK, bad=[3]) == 0
    assert "loss is nan at step 3: the run goes back to step 2 and skips the 2 batches 2 to 3 (roll back 1" in capsys.readouterr().err
    known = lines(rolled)
    assert [line.pop("skipped_batches", 0.0) for line in known if line["split"] == "train"] == [0, 0, 2, 2, 2]
    assert known == lines(whole)
    gone = [json.loads(line) for line in (rolled / "rolled_back_1.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"] is None) for line in gone] == [(2, False), (3, True)]
    for path, ours in jax.tree.leaves_with_path(expected := params(whole)):
        assert np.isfinite(ours).all(), jax.tree_util.keystr(path)
    for last in (2, 4):  # killed before the first save after the roll back, and after it
        again = tmp_path / f"again {last}"
        shutil.copytree(rolled, again)
        for step in {4, 5} & set(range(last + 1, 6)):
            shutil.rmtree(runs.checkpoints(again) / str(step))
        assert start(again, *ROLL_BACK, bad=[3]) == 0
        assert lines(again) == lines(rolled)
        jax.tree.map(np.testing.assert_array_equal, params(again), expected)
        assert runs.record(again, 5)["data"]["skipped"] == {"ranges": [[2, 4]], "times": 1}


@pytest.mark.slow
def test_a_run_rolls_back_to_its_beginning_too_and_stops_at_the_limit_with_its_checkpoint(start, tmp_path, capsys):
    assert start(tmp_path / "run", *ROLL_BACK, "train.max_roll_backs=2", bad=[1, 4, 6]) == 1  # batches 0 and 1, 4, then 6
    message = capsys.readouterr().err
    assert "the run goes back to step 0 and skips the 2 batches 0 to 1" in message
    assert "at step 2: the run goes back to step 2 and skips batch 4 (" in message
    assert "loss is nan at step 3; the run has rolled back 2 times" in message and "the newest good checkpoint is step 2" in message
    assert runs.steps(tmp_path / "run") == [2] and runs.record(tmp_path / "run", 2)["data"]["skipped"]["ranges"] == [[0, 2]]


@pytest.mark.slow
def test_two_processes_roll_back_together_after_a_loss_and_after_a_gradient(start, once, tmp_path):
    whole, two = tmp_path / "whole", tmp_path / "two"
    assert start(whole, order=[0, 1, 4, 5, 7]) == 0
    settings = (*ROLL_BACK, "train.on_spike=roll_back", "train.spike_grad_norm=1e6")
    command = [sys.executable, bad_batches.__file__, "3:nan,6:inf", "--", *arguments(two, once["cache"], *settings)]
    codes, messages = several_processes.outcome([command] * 2, devices=2)
    assert codes == [0, 0], messages
    assert "loss is nan at step 3: the run goes back to step 2 and skips the 2 batches 2 to 3 (roll back 1" in messages[0]
    assert "at step 4: the run goes back to step 4 and skips batch 6 (roll back 2" in messages[0] and "roll back" not in messages[1]
    assert runs.record(two, 5)["data"]["skipped"] == {"ranges": [[2, 4], [6, 7]], "times": 2}
    known = lines(two)
    assert [line.pop("skipped_batches", 0.0) for line in known] == [0, 0, 2, 2, 3]
    for ours, theirs in zip(known, lines(whole), strict=True):
        assert ours.pop("split") == theirs.pop("split") and ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6), params(two), params(whole))

"""A run that rolls back goes on as if the batches that it skips had never been there, also where it is killed afterwards."""

import json
import shutil

import grain
import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from jaxalign import sharding, train
from jaxalign.config import build
from jaxalign.data.rows import loader
from jaxalign.training import guards, runs, sources
from jaxalign.training.roll_back import RollBack, Skipped

ROLL_BACK = ("train.on_nan=roll_back",)


def get_config() -> ConfigDict:
    """SFT of a tiny model with random weights: five steps, saves after two and four."""
    source = dict(path="package:sf_dialogue/train.jsonl.gz", format="paired", limit=40, responses="chosen")
    return ConfigDict(
        dict(
            model=dict(preset="tiny", tokenizer="package:stories260k"),
            data=dict(train=source, template="plain", row_tokens=64, processes=1),
            batch=dict(rows=8),
            objective=dict(name="sft"),
            optimizer=dict(learning_rate=1e-3),
            train=dict(total_steps=5, log_every_steps=2, eval_every_steps=0, save_every_steps=2, keep_last=9),
        )
    )


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
    make, batches = build.functions, loader.batches

    def functions(*arguments):
        made = once.setdefault("made", make(*arguments))

        def train_step(state, batch):
            bad = np.isnan(np.asarray(batch.reward)).any()
            state, metrics = made.train_step(state, batch)
            if bad:
                state = state.replace(trainable=jax.tree.map(lambda x: x * np.nan, state.trainable))
            return state, metrics | {"loss": metrics["loss"] * np.nan} if bad else metrics

        return build.Functions(made.init_state, train_step, made.eval_step, made.source)

    def run(workdir, *settings, bad=(), order=None):
        def marked(*sets, skipped=0, **options):
            plain = batches(*sets, **options)

            def batch(step):
                number = (step if order is None else order[step]) + skipped
                arrays = plain[number]
                return arrays | {"reward": arrays["reward"] * (np.nan if number in bad else 1.0)}

            return grain.MapDataset.range(100).map(batch)

        monkeypatch.setattr(build, "functions", functions)
        monkeypatch.setattr(loader, "batches", marked)
        monkeypatch.setattr(train, "_summarize", lambda *_, **__: None)  # a page and plots
        flags = [f"--config.{setting}" for setting in settings]
        return train.main(["--config", __file__, "--workdir", str(workdir), f"--config.data.prepared_dir={cache}", *flags])

    return run


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

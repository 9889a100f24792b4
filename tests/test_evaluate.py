"""Evaluation without training: the numbers of the run, other rows, folders of weights, and what is refused."""

import argparse
import json
from pathlib import Path
import shutil

from ml_collections import ConfigDict
import pytest

from jaxalign import evaluate, train
from jaxalign.config import answer_flags
from jaxalign.config.files import override
from jaxalign.reports import log
from jaxalign.scoring.specs import by_name
from jaxalign.training import runs

OPTIMIZED = True
TINY = str(Path(__file__).parent / "tiny.py")
STAGES = """
import importlib.util
spec = importlib.util.spec_from_file_location("tiny", {tiny!r})
tiny = importlib.util.module_from_spec(spec); spec.loader.exec_module(tiny)

def get_config():
    sft, dpo = tiny.get_config("sft"), tiny.get_config("dpo")
    for stage in (sft, dpo):
        stage.data.prepared_dir = {cache!r}
        stage.train.update(total_steps=2, save_every_steps=1, eval_every_steps=1)
    dpo.model.checkpoint = "stage:sft"
    return dict(stages=("sft", "dpo"), sft=sft, dpo=dpo)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of two stages."""
    folder = tmp_path_factory.mktemp("run")
    config = folder / "config.py"
    config.write_text(STAGES.format(tiny=TINY, cache=str(folder / "prepared")))
    assert train.main(["--config", str(config), "--workdir", str(folder / "run")]) == 0
    return folder / "run"


def numbers(path):
    return json.loads(path.read_text())


def test_flags_that_name_something_are_text_whatever_they_look_like():
    flags = dict(
        reward=["length", "{'kind': 'length', 'unit': 'words'}"], config=None, stage=None, against="2024", judge="{'kind': 'gsm8k'}"
    )
    numbers = dict(prompts="None", limit="all", samples=2, max_new_tokens=None, temperature=0.5)
    config = ConfigDict({"eval": {"generate": {}}})
    override(config, answer_flags.overrides(argparse.Namespace(**flags, **numbers)))
    rewards = {"length": "length", "length-2": {"kind": "length", "unit": "words"}}
    set_so = {"against": "2024", "prompts": "None", "limit": None, "samples": 2, "temperature": 0.5}
    assert config.eval.generate.to_dict() == {**set_so, "judge": {"kind": "gsm8k"}, "rewards": rewards}


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        (["a.py:f1", "b.py:f1", "c.py:f1"], ["f1", "f1-2", "f1-3"]),
        (["a.py:f-2", "a.py:f", "b.py:f"], ["f-2", "f", "f-3"]),
        (["model:runs/rm_0@3", "model:other/rm_0", "length"], ["rm_0", "rm_0-2", "length"]),
        ([dict(kind="model", model="runs/rm"), dict(kind="python", function="a.py:f"), dict(kind="sum", of={})], ["rm", "f", "sum"]),
        ([dict(kind="judge", model="org/m@http://h/v1"), "judge:org/m@http://h/v1", "python:a.py:f"], ["m", "m-2", "f"]),
    ],
)
def test_every_reward_has_a_name_of_its_own(specs, names):
    named = by_name(specs)
    assert list(named.values()) == specs and len(set(named)) == len(specs)
    assert list(named) == names


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_numbers_are_those_that_the_run_logged_at_that_step(finished, step):
    assert evaluate.main(["--workdir", str(finished / "dpo"), "--step", str(step)]) == 0
    found = numbers(finished / "dpo" / "evaluations" / f"step-{step}.json")
    (first, *_), (_, logged) = log.read_estimates(finished / "dpo"), log.read_estimates(finished / "dpo")[step]
    assert found["checkpoint"].keys() == logged.keys()
    for part, known in (("start", first[1]), ("checkpoint", logged)):
        for name, one in known.items():
            assert found[part][name] == one.as_dict(), (part, name)
    change = found["change"]["loss"]
    assert change["value"] == pytest.approx(logged["loss"].value - first[1]["loss"].value) and change["n"] == logged["loss"].n


def test_the_best_checkpoint_is_evaluated_by_name(finished, tmp_path):
    best = runs.parse_step("best", finished / "dpo")
    assert evaluate.main(["--workdir", str(finished / "dpo"), "--step", "best", "--out", str(tmp_path / "best.json")]) == 0
    assert numbers(tmp_path / "best.json")["checkpoint"]["loss"] == log.read_estimates(finished / "dpo")[best][1]["loss"].as_dict()


def test_other_rows_are_evaluated_and_written_under_another_name(finished, capsys):
    overrides = ["--config.data.eval.limit=12"]
    assert evaluate.main(["--workdir", str(finished), "--stage", "dpo", *overrides]) == 0
    (path,) = (finished / "dpo" / "evaluations").glob("step-2-*.json")
    found = numbers(path)
    assert found["checkpoint"]["loss"]["n"] < log.read_estimates(finished / "dpo")[-1][1]["loss"].n
    assert "--config.data.eval.limit=12" in found["command"]
    assert "accuracy" in capsys.readouterr().out


def test_a_run_that_stored_keys_without_effect_is_evaluated_and_they_are_named(finished, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(finished / "sft", folder)
    step = folder / "checkpoints" / "2"
    record = json.loads((step / "run" / "metadata").read_text())
    record["config"]["data"]["eval"]["weight"] = 0.5
    record["config"]["train"] |= {"keep_best": 1, "best_metric": "-other/accuracy"}
    (step / "run" / "metadata").write_text(json.dumps(record))
    runs.SEAL.write(step)
    assert evaluate.main(["--workdir", str(folder)]) == 0
    assert [line for line in caplog.messages if "data.eval.weight=0.5, which has no effect" in line]
    assert numbers(folder / "evaluations" / "step-2.json")["checkpoint"]["loss"]["n"] > 0


def test_a_run_without_a_reference_is_compared_with_what_it_started_from(finished, tmp_path):
    assert evaluate.main(["--workdir", str(finished / "sft"), "--out", str(tmp_path / "sft.json")]) == 0
    evaluations = log.read_estimates(finished / "sft")
    found = numbers(tmp_path / "sft.json")
    assert found["start"]["loss"] == evaluations[0][1]["loss"].as_dict()
    assert found["checkpoint"]["loss"] == evaluations[-1][1]["loss"].as_dict()


def test_a_folder_of_weights_is_evaluated_against_the_model_of_the_config(finished, tmp_path):
    overrides = [f"--config.data.prepared_dir={tmp_path}"]
    folder, out = finished / "sft" / "export", tmp_path / "out.json"
    assert evaluate.main(["--config", TINY, "--checkpoint", str(folder), "--out", str(out), *overrides]) == 0
    found = numbers(out)
    assert found["start"]["accuracy"]["value"] == 0.5 and found["start"]["kl"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["checkpoint"]["kl"]["value"] > 1e-4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --workdir RUN, or --checkpoint"),
        (["--config", "CONFIG", "--checkpoint", "RUN/dpo", "--step", "1"], "named --checkpoint RUN@1"),
        (["--workdir", "RUN/dpo", "--out", "RUN"], "is a folder; name a file"),
        (["--workdir", "RUN/dpo", "--config.train.total_steps=9", "--config.batch.rows=4"], "--config.train.total_steps: an evaluation"),
        (["--workdir", "RUN/dpo", "--config.model.checkpoint=/nope"], "--config.model.checkpoint: an evaluation"),
        (["--workdir", "RUN/dpo", "--config.data.train.path=/nope", "--config.seed=1"], "data.train.path, --config.seed: an evaluation"),
        (["--workdir", "RUN/dpo", "--config.objective.name=kto"], "no state for an evaluation with --config.objective.name"),
        (["--config", TINY, "--checkpoint", "RUN/dpo", "--stage", "x"], "has no stages; leave --stage out"),
        (["--config", "CONFIG", "--checkpoint", "RUN/dpo", "--stage", "x"], "--stage x is no stage"),
        (["--config", TINY, "--checkpoint", "RUN/sft", "--config.optimizer.learning_rate=1.0"], "learning_rate: an evaluation"),
        (["--config", TINY, "--checkpoint", "/nope", "--config.data.eval.path=/nope.jsonl"], "/nope is not a folder"),
        (["--checkpoint", "x"], "--config and --checkpoint go together"),
        (["--workdir", "RUN/dpo", "--temperature", "nan"], "--temperature nan must be a finite number"),
        (["--workdir", "RUN/dpo", "--reward", "{'kind'"], "is no dict as Python writes it"),
        (["--workdir", "RUN/dpo", "--limit", "0"], "--limit 0 must be a whole number of prompts from 1, or all"),
        (["--workdir", "RUN"], "is a run of stages dpo, sft"),
        (["--workdir", "RUN/dpo", "--step", "7"], "checkpoints of steps [1, 2], not 7"),
        (["--workdir", "RUN/dpo", "--step", "last"], "comes the step of a checkpoint, or best"),
        (["--workdir", "RUN/dpo", "--config.data.eval=None"], "there is nothing to evaluate on"),
        (["--config", "CONFIG", "--checkpoint", "x"], "--stage ... is needed"),
        (["--config", "CONFIG", "--stage", "dpo", "--checkpoint", "x"], "--config.dpo.model.checkpoint=FOLDER"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_the_way_out(finished, flags, message, capsys):
    places = {"RUN": finished, "RUN/dpo": finished / "dpo", "RUN/sft": finished / "sft", "CONFIG": finished.parent / "config.py"}
    assert evaluate.main([str(places.get(flag, flag)) for flag in flags]) == 1
    assert message in capsys.readouterr().err


def test_where_a_checkpoint_does_not_hold_the_start_of_its_run_the_start_may_be_named(finished, capsys):
    assert evaluate.main(["--workdir", str(finished / "sft"), "--config.model.checkpoint=/nope"]) == 0
    assert "What the run started from is not there any more: /nope is not a folder" in capsys.readouterr().err


ANSWERS = ["--reward", "length", "--against", "chosen", "--limit", "2", "--max-new-tokens", "2", "--config.eval.generate.kl=False"]


@pytest.mark.parametrize(
    ("out", "flags", "words"),
    [
        ("prompts.jsonl", ANSWERS, "prompts.jsonl is there already; name another file, or remove it"),
        ("run-0.5.json", ANSWERS, "the file for the answers, {folder}/run-0.5.samples.jsonl, is there already; give another --out"),
        ("prompts.jsonl/x.json", [], "{folder}/prompts.jsonl/x.json cannot be written"),
    ],
)
def test_a_file_that_is_there_or_cannot_be_written_is_told_before_anything_is_measured(finished, out, flags, words, tmp_path, monkeypatch):
    for name in ("prompts.jsonl", "run-0.5.samples.jsonl"):
        (tmp_path / name).write_text('{"prompt": "mine"}\n')
    monkeypatch.setattr(evaluate, "_measure", lambda _: pytest.fail("it was measured"))
    with pytest.raises(ValueError) as error:
        evaluate._evaluate(["--workdir", str(finished / "dpo"), "--out", str(tmp_path / out), *flags])
    assert words.format(folder=tmp_path) in str(error.value)
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["prompts.jsonl", "run-0.5.samples.jsonl"] and {path.read_text() for path in files} == {
        '{"prompt": "mine"}\n'
    }


def test_a_name_with_a_dot_stays_whole_and_the_default_file_of_a_run_is_written_anew(finished, tmp_path):
    assert evaluate.main(["--workdir", str(finished / "dpo"), "--out", str(tmp_path / "run-0.5"), *ANSWERS]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-0.5", "run-0.5.samples.jsonl"]
    assert len((tmp_path / "run-0.5.samples.jsonl").read_text().splitlines()) == 2 and "loss" in numbers(tmp_path / "run-0.5")["change"]
    for _ in range(2):
        assert evaluate.main(["--workdir", str(finished / "sft")]) == 0
    assert not list((finished / "sft" / "evaluations").glob("*.partial"))

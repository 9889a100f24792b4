"""A run with a reward head: its record, its export, what starts from it, and what is refused."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import toys

from jaxalign import evaluate, generate, train
from jaxalign.reports import log
from jaxalign.scoring import rewards
from jaxalign.training import runs
from jaxalign.training.sources import Source

pytestmark = pytest.mark.slow
OPTIMIZED = True
TINY = str(Path(__file__).parents[1] / "tiny.py")
SETTINGS = ("train.total_steps=4", "train.save_every_steps=4", "train.eval_every_steps=4", "train.log_every_steps=1")
PROMPTS, COMPLETIONS = ["Human: Hello?", "Once upon a time"], [" Hi there.", " there was a cat."]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def start(workdir, cache, objective, *settings):
    arguments = ["--config", f"{TINY}:{objective}", "--workdir", str(workdir), f"--config.data.prepared_dir={cache}"]
    return train.main([*arguments, *(f"--config.{setting}" for setting in (*SETTINGS, *settings))])


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("run")
    assert start(workdir, cache, "reward", "model.reward_head=linear", "train.export=True") == 0
    return workdir


def test_the_run_and_its_export_score_alike(run):
    record = runs.record(run, 4)
    assert record["reward_head"] == "linear" and record["model"]["tied"]
    with jax.set_mesh(toys.mesh()):
        scores = [rewards.make(f"model:{name}")(PROMPTS, COMPLETIONS, [{}] * 2) for name in (run, run / "export")]
    np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-6)
    assert scores[0][0] != scores[0][1]
    values = json.loads((run / "export" / "config.json").read_text())
    assert values["architectures"] == ["LlamaForSequenceClassification"] and values["pad_token_id"] != values["eos_token_id"]


def test_training_goes_on_from_a_reward_model_with_its_head(run, cache, tmp_path):
    assert start(tmp_path, cache, "reward", "model.reward_head=linear", f"model.checkpoint={run}") == 0
    ended, begun = log.read_metrics(run, "eval")[-1], log.read_metrics(tmp_path, "eval")[0]
    assert begun["loss"] == pytest.approx(ended["loss"], rel=1e-6)
    assert ended["loss"] != pytest.approx(log.read_metrics(run, "eval")[0]["loss"], rel=1e-3)


def test_an_evaluation_of_the_run_gives_the_numbers_that_it_logged(run, tmp_path):
    assert evaluate.main(["--workdir", str(run), "--out", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())["checkpoint"]
    logged = log.read_metrics(run, "eval")[-1]
    assert found["accuracy"]["value"] == pytest.approx(logged["accuracy"]) and found["loss"]["value"] == pytest.approx(logged["loss"])


@pytest.mark.parametrize(
    ("objective", "settings", "words"),
    [
        ("dpo", (), "is a reward model: it scores answers and has no table of output tokens"),
        ("reward", ("model.reward_head=mlp",), "of kind 'linear', another than model.reward_head"),
    ],
)
def test_a_reward_model_does_not_start_what_it_cannot(run, cache, tmp_path, capsys, objective, settings, words):
    assert start(tmp_path, cache, objective, f"model.checkpoint={run}", *settings) == 1
    assert words in capsys.readouterr().err


def test_a_reward_model_does_not_speak(run, capsys):
    assert generate.main(["--workdir", str(run), "--prompt", "Hello?"]) == 1
    assert "is a reward model: it scores answers" in capsys.readouterr().err


def test_a_run_without_a_head_scores_nothing(cache, tmp_path):
    assert start(tmp_path, cache, "sft") == 0
    with pytest.raises(ValueError, match="is a run without a reward head, so it scores nothing; name a run"):
        Source(str(tmp_path)).reward_model()

"""Runs of goal_reward and feature_reward from the command line: their goal, their reward of new texts, what is refused before a start."""

import json
from pathlib import Path
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign import generate, train
from jaxalign.data import prepared as preparing
from jaxalign.data.rows import store
from jaxalign.reports import log
from jaxalign.scoring import goal, rewards, scorer

TINY = str(Path(__file__).parents[1] / "tiny.py")
SETTINGS = ("train.total_steps=4", "train.save_every_steps=4", "train.eval_every_steps=4", "train.log_every_steps=1")
HEADER = "from ml_collections import ConfigDict\nfrom tiny import get_config as tiny\n\n\n"
FEATURES = """def get_config():
    config = tiny("feature_reward").to_dict()
    for part in ("train", "eval"):
        config["data"][part]["keep_columns"] = {"score": "score"}
    config["model"] |= {"trainable": "reward_head", "reward_head": {"features": {"score": {"range": (1, 6)}, "words": {"of": "length"}}}}
    return ConfigDict(config)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def start(config, workdir, cache, *settings):
    arguments = ["--config", str(config), "--workdir", str(workdir), f"--config.data.prepared_dir={cache}"]
    return train.main([*arguments, *(f"--config.{setting}" for setting in (*SETTINGS, *settings))])


@pytest.fixture
def features(tmp_path, monkeypatch):
    """A config with a head on the score of each answer and on nothing else."""
    monkeypatch.syspath_prepend(str(Path(TINY).parent))
    file = tmp_path / "features.py"
    file.write_text(HEADER + FEATURES.replace(', "words": {"of": "length"}', ""))
    return file


@pytest.mark.slow
def test_a_run_of_goal_reward_learns_and_has_a_goal_of_its_own(tmp_path, cache):
    assert start(f"{TINY}:goal_reward", tmp_path, cache, "model.reward_head=linear") == 0
    first, last = (log.read_metrics(tmp_path, "eval")[i] for i in (0, -1))
    assert last["loss"] < first["loss"]
    assert {"contrast", "cosines/positive", "cosines/negative", "states/norm"} <= last.keys()
    source = {"path": "package:sf_dialogue/test.jsonl.gz", "format": "paired", "limit": 6}
    options = dict(template="plain", row_tokens=192, processes=1, quiet=True, out_root=cache)
    prepared = store.read(preparing.prepare(source, tokenizer="package:stories260k", **options))
    with jax.set_mesh(toys.mesh()):
        judge = scorer.of_reward_model(str(tmp_path), dtype=jnp.float32, attention="xla")
        aim = goal.of_answers(judge, prepared, rows=2, quiet=True)
        answers = goal.along(judge, prepared, aim, rows=2, quiet=True)
    assert aim.answers == len(prepared.groups) and aim.weights == judge.weights
    assert len(answers) == 2 * len(prepared.groups)
    assert all(np.abs(answer.cosines).max() <= 1 + 1e-5 for answer in answers)


@pytest.mark.slow
def test_a_run_filters_and_guides_what_another_model_says(tmp_path, cache, capsys):
    workdir, out = tmp_path / "run", tmp_path / "said.jsonl"
    assert start(f"{TINY}:goal_reward", workdir, cache, "model.reward_head=linear") == 0
    asked = ["--prompt", "Once upon a time", "--max-new-tokens", "12", "--checkpoint", "package:stories260k"]
    assert generate.main([*asked, "--samples", "3", "--filter", str(workdir), "--filter-threshold", "2", "--out", str(out)]) == 0
    told = capsys.readouterr().err
    assert "filter: 0 of 3 samples are dropped" in told and "1 of 1 prompts would keep no sample, and keep all" in told
    lines = [json.loads(line) for line in (tmp_path / "said.kept.jsonl").read_text().splitlines()]
    assert [line["sample"] for line in lines] == [0, 1, 2] and all(-1 <= line["lowest_cosine"] <= 1 for line in lines)
    assert (workdir / "goals" / "4.json").is_file()
    assert generate.main([*asked, "--samples", "2", "--guide", str(workdir), "--guide-steps", "2", "--out", str(tmp_path / "g.jsonl")]) == 0
    (line,) = [json.loads(line) for line in (tmp_path / "g.jsonl").read_text().splitlines()]
    assert len(line["cosines"]) == 2 and 2 <= len(line["token_ids"]) <= 24 and line["stop"] == "steps"
    assert re.search(r"1 sample: \d+ tokens in .* per second with compilation; .*; 1 after 2 lines", capsys.readouterr().err)
    for flags, words in (
        (["--filter", "package:stories260k"], "scores nothing; name a run"),
        (["--filter", str(workdir), "--template", "hh"], "is written otherwise than that of the model"),
        (["--filter", str(workdir), "--guide", str(workdir)], "give one of them"),
        (["--guide-weight", "2"], "--guide-weight has no effect without --guide;"),
    ):
        assert generate.main([*asked, *flags]) == 1 and words in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_of_feature_reward_is_continued_and_scores_new_texts(features, tmp_path, cache):
    workdir = tmp_path / "run"
    assert start(features, workdir, cache) == 0
    assert start(features, workdir, cache) == 0  # from its last checkpoint
    metrics = log.read_metrics(workdir, "eval")[-1]
    assert metrics["features/score"] == metrics["plain_mean"]
    with jax.set_mesh(toys.mesh()):
        low, high = rewards.make(f"model:{workdir}")(["p"] * 2, ["a", "b"], [{"score": 2}, {"score": 5}])
    assert low != high
    assert np.isfinite([low, high]).all()


def test_a_feature_that_no_source_brings_is_refused(features, tmp_path, cache, capsys):
    features.write_text(HEADER + FEATURES)
    assert start(features, tmp_path / "run", cache) == 1
    assert "model.reward_head: feature 'words' is no column; bring it in keep_columns" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("objective", "settings", "words"),
    [
        ("goal_reward", (), "set model.reward_head='linear'"),
        ("goal_reward", ("model.reward_head=linear", "objective.pairs=some"), "got pairs='some'"),
        ("goal_reward", ("model.reward_head=linear", "objective.goal=average", "objective.pairs=causal"), "it needs goal='single'"),
        ("feature_reward", ("model.reward_head=linear",), "reads features; set dict(features="),
        ("feature_reward", ("model.reward_head=linear",), "teaches the reward head alone; set model.trainable='reward_head'"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_read(tmp_path, cache, capsys, objective, settings, words):
    assert start(f"{TINY}:{objective}", tmp_path, cache, *settings) == 1
    assert words in capsys.readouterr().err

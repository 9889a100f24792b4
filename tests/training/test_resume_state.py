"""A run that is continued is the run that was not stopped, bit for bit, whatever its state holds beside the parameters."""

import json
from pathlib import Path
import shutil

import pytest

from jaxalign import train

OPTIMIZED = ONE_DEVICE = True
TINY = str(Path(__file__).parents[1] / "tiny.py")
SETTINGS = ("batch.rows=4", "train.total_steps=6", "train.save_every_steps=3", "train.eval_every_steps=3", "train.log_every_steps=1")
CASES = {
    "a reference that moved softly, muon beside adamw, and a running mean of rewards": (
        "una", "objective.offset=ema", "data.train.feedback=label", "data.eval.feedback=label",
        "reference.rule=soft", "reference.alpha=0.6", "reference.every_steps=2", "optimizer.name=muon", "optimizer.mu_dtype=bfloat16",
    ),
    "a reference that moved hard, and moments, in the memory of the host": (
        "dpo", "reference.rule=hard", "reference.every_steps=2", "mesh.offload=('reference','optimizer')",
    ),
    "a table of log-probs in the middle of its window, and lion": (
        "ipo", "reference.rule=hard_table", "reference.every_steps=4",
        "optimizer.name=lion", "optimizer.mu_dtype=bfloat16", "optimizer.learning_rate=1e-4",
    ),
    "a reward head of several layers on a frozen decoder, and groups drawn by a column": (
        "reward", "model.reward_head=mlp", "model.trainable=reward_head", "data.sampling=priority", "data.sampling_column=reward",
    ),
    "noise in the embeddings": ("ift", "forward.mixing_noise=0.5", "data.train.responses=chosen", "data.eval.responses=chosen"),
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def start(workdir, cache, objective, *settings):
    arguments = ["--config", f"{TINY}:{objective}", "--workdir", str(workdir), f"--config.data.prepared_dir={cache}"]
    assert train.main([*arguments, *(f"--config.{setting}" for setting in (*SETTINGS, *settings))]) == 0
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def seen(lines):
    """Everything but times, of the steps after the third."""
    kept = [{key: value for key, value in line.items() if "speed/" not in key and key != "time"} for line in lines]
    return [line for line in kept if line["step"] >= 3]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_continued_run_equals_one_that_was_not_stopped(tmp_path, cache, case):
    whole = start(tmp_path, cache, *CASES[case])
    shutil.rmtree(tmp_path / "checkpoints" / "6")  # as if it had been killed before its last save
    again = start(tmp_path, cache, *CASES[case])
    assert seen(again) == seen(whole)
    assert len(seen(whole)) >= 4 and len({json.dumps(line) for line in seen(whole)}) == len(seen(whole))

"""A finished run goes on with its optimizer state, as the run that was extended from the start."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from jaxalign import train
from jaxalign.config import durations, optimizers
from jaxalign.config.resolve import resolve

OPTIMIZED = True
TINY = str(Path(__file__).parents[1] / "tiny.py")
SHORT = ("train.total_steps=4", "train.save_every_steps=4", "train.eval_every_steps=4", "train.log_every_steps=1")
WINDOWS = ("reference.rule=hard_table", "reference.every_steps=3", "data.eval=None")  # one reaches beyond the first end
LONGER = ("train.extend_steps=3", "train.extend_learning_rate=0.0005")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def start(workdir, cache, *settings, code=0):
    """The training lines of a run; none of one that is refused."""
    arguments = ["--config", f"{TINY}:dpo", "--workdir", str(workdir), f"--config.data.prepared_dir={cache}"]
    assert train.main([*arguments, *(f"--config.{setting}" for setting in (*SHORT, *settings))]) == code
    if code:
        return []
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: line[name] for name in ("step", "loss", "learning_rate", "grad_norm")} for line in lines if line["split"] == "train"]


@pytest.fixture(scope="module")
def extended(tmp_path_factory, cache):
    """(workdir, training lines) of a run that was extended at its end."""
    workdir = tmp_path_factory.mktemp("later")
    start(workdir, cache, *WINDOWS)
    return workdir, start(workdir, cache, *WINDOWS, *LONGER)


@pytest.mark.slow
def test_a_run_extended_at_its_end_is_the_run_extended_from_the_start(extended, tmp_path, cache):
    later, at_once = extended[1], start(tmp_path, cache, *WINDOWS, *LONGER)
    assert later == at_once and [line["step"] for line in later] == list(range(7))
    assert [line["learning_rate"] for line in later[4:]] == pytest.approx([5e-4] * 3)


@pytest.mark.slow
def test_an_extension_needs_a_rate_where_the_schedule_ends_at_0_and_does_not_end_before_the_checkpoint(extended, tmp_path, cache, capsys):
    start(tmp_path, cache, "train.extend_steps=3", code=1)
    assert "optimizer.schedule='cosine' ends at a learning rate of 0" in capsys.readouterr().err
    start(extended[0], cache, *WINDOWS, "train.extend_steps=1", "train.extend_learning_rate=0.0005", code=1)
    assert "holds step 7, beyond the 5 steps that are asked for" in capsys.readouterr().err
    start(extended[0], cache, *WINDOWS, "train.extend_steps=9", "train.extend_learning_rate=0.1", code=1)
    assert "train.extend_learning_rate: 0.0005 -> 0.1" in capsys.readouterr().err


@pytest.mark.parametrize(("schedule", "expected"), [("constant", 1e-3), ("linear", 2e-4), ("cosine", 2e-4)])
def test_the_rate_of_an_extension_is_that_of_the_end_of_the_schedule(schedule, expected):
    cfg = tiny.get_config()
    cfg.optimizer.update(schedule=schedule, min_lr_ratio=0.0 if schedule == "constant" else 0.2)
    lengths = durations.Durations(total=15, planned=10, warmup=2, log_every=1, eval_every=5, save_every=5)
    rates = [float(optimizers.learning_rate(resolve(cfg), lengths)(step)) for step in range(15)]
    np.testing.assert_allclose(rates[10:], expected, rtol=1e-6)
    plain = durations.Durations(total=10, planned=10, warmup=2, log_every=1, eval_every=5, save_every=5)
    assert rates[:10] == [float(optimizers.learning_rate(resolve(cfg), plain)(step)) for step in range(10)]

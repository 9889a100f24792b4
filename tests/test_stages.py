"""Whole runs of several stages through the command line: columns that one stage's model gives the data of a later one."""

from pathlib import Path

from ml_collections import ConfigDict
import numpy as np
import pytest
import tiny

from jaxalign import train
from jaxalign.reports import log

pytestmark = pytest.mark.slow
OPTIMIZED = ONE_DEVICE = True
STAGES = """
import sys
sys.path.insert(0, {folder!r})
from test_stages import get_config
"""


def stage(method, checkpoint="stage:sft", **sections):
    cfg = tiny.get_config(method)
    cfg.train.update(total_steps=4, eval_every_steps=4, save_every_steps=4)
    cfg.model.update(checkpoint=checkpoint, **sections.pop("model", {}))
    cfg.update(ConfigDict(sections))
    return cfg


def get_config():
    implicit = dict(kind="implicit_reward", model="stage:other", reference="stage:sft", beta=0.2)
    advantage = dict(kind="advantage", model="stage:value")
    drawn = dict(computed=dict(advantage=advantage), sampling="priority")
    stages = dict(
        sft=stage("sft", "package:stories260k"),
        other=stage("dpo"),
        modpo=stage("modpo", data=dict(computed=dict(margin=implicit)), objective=dict(weights=(0.5, 0.5))),
        value=stage("value", model=dict(value_head=1.0, trainable="value_head")),
        alol=stage("alol", data=drawn),
    )
    return ConfigDict(dict(stages=tuple(stages), **stages))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(the run's folder, its cache)."""
    cache, folder = tmp_path_factory.mktemp("prepared"), tmp_path_factory.mktemp("stages")
    config = folder / "config.py"
    config.write_text(STAGES.format(folder=str(Path(__file__).parent)))
    overrides = [f"--config.{stage}.data.prepared_dir={cache}" for stage in get_config().stages]
    assert train.main(["--config", str(config), "--workdir", str(folder / "run"), *overrides]) == 0
    return folder / "run", cache


def columns(cache, name):
    """Arrays of the column of this name, one for each prepared set that has it."""
    return [np.load(path / f"{name}.npy") for path in cache.glob(f"*/columns/{name}-*")]


def test_a_margin_is_the_implicit_reward_of_an_earlier_stage(run):
    workdir, cache = run
    found = columns(cache, "margin")
    assert len(found) == 2 and all(values.shape[1] == 2 and values.any() for values in found)
    other = log.read_metrics(workdir / "other", "eval")[-1]["rewards/margins"]
    shown = [abs(np.mean(values[:, 0] - values[:, 1]) - 2 * other) for values in found]  # DPO's own beta is 0.1
    assert min(shown) < 1e-4
    first = log.read_metrics(workdir / "modpo", "eval")[0]
    assert first["margins/difference"] == pytest.approx(other, abs=1e-4)  # 0.5 of twice as much
    assert first["implied/margins"] == pytest.approx(-2 * other, abs=1e-4)


def test_an_advantage_is_the_reward_less_the_value_of_an_earlier_stage_and_is_drawn_by(run):
    workdir, cache = run
    found = np.concatenate(columns(cache, "advantage"))
    held_out = log.read_metrics(workdir / "value", "eval")
    assert held_out[-1]["loss"] < held_out[0]["loss"]
    assert ((0 < 1 - found[:, 0]) & (1 - found[:, 0] < 1)).all()  # chosen responses have reward 1, values lie in (0, 1)
    np.testing.assert_allclose(found[:, 0] - found[:, 1], 1, atol=1e-6)  # the value is the prompt's
    first = log.read_metrics(workdir / "alol", "train")[0]
    assert first["ratios/mean"] == pytest.approx(1, abs=1e-4)

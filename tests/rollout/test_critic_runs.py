"""A run with a critic: its first ratios are 1, the next run takes the critic over, an export leaves it out."""

from pathlib import Path

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest
from safetensors import safe_open
import toys

from jaxalign import train
from jaxalign.config import build, files
from jaxalign.config.resolve import resolve
from jaxalign.reports import log
from jaxalign.training import sources

CONFIG = f"{Path(__file__).parent / 'spoken.py'}:ppo"


@pytest.mark.slow
def test_a_critic_goes_on_in_the_next_run_and_is_left_out_of_an_export(tmp_path):
    settings = {"train.total_steps": 2, "train.export": True, "data.rollout.epochs": 1, "data.rollout.every_steps": 1}
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    assert train.main(["--config", CONFIG, "--workdir", str(tmp_path), *flags]) == 0
    for line in log.read_metrics(tmp_path, "train"):
        assert line["ratios/mean"] == 1 and line["ratios/kl"] == 0 and line["ratios/low"] == line["ratios/high"] == 0
        assert line["advantages/mean"] == pytest.approx(0, abs=1e-6) and line["values/error_square"] > 0
    with safe_open(tmp_path / "export" / "model.safetensors", "numpy") as tensors:
        names = list(tensors.keys())
    assert names and not [name for name in names if "critic" in name or "score" in name]
    with jax.set_mesh(toys.mesh()):
        kept = np.asarray(sources.restore_params(tmp_path)[1]["critic"]["score"]["kernel"])
        for critic in ("linear", "mlp"):
            cfg = ConfigDict(files.load_file(CONFIG))
            cfg.model = ConfigDict(dict(checkpoint=str(tmp_path), critic=critic))
            cfg = resolve(cfg)
            ours = build.params(cfg, build.model(cfg))["critic"]["score"]["kernel"]
            assert np.array_equal(ours, kept) == (critic == "linear")

"""What a configuration's rollouts are made of: how its prompts are read, and what names their batches where a run is continued."""

import json

import jax
from ml_collections import ConfigDict
import pytest
import spoken

from jaxalign.config import build, functions, rollouts
from jaxalign.config.resolve import resolve


def rolling(*, rollout=None, **data):
    config = spoken.get_config("dpo").to_dict()
    config["data"] |= data | {"rollout": config["data"]["rollout"] | (rollout or {})}
    cfg = resolve(ConfigDict(config))
    with jax.set_mesh(build.mesh(cfg)):
        return rollouts.rolling(cfg, build.model(cfg), functions.objective(cfg), reward=None, tell=lambda lines: None)


def test_the_shape_of_batches_belongs_to_what_a_run_is_continued_with():
    assert rolling().prepared == rolling().prepared
    others = {rolling(row_tokens=192).prepared, rolling(rollout=dict(prompts_per_step=2)).prepared, rolling().prepared}
    assert len(others) == 3 and all(name.startswith("prompts-") for name in others)


def test_prompts_are_read_in_the_format_that_is_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(dict(prompt=f"Say {n}.", response="no", score=0.5)) + "\n" for n in range(40)))
    assert " of 40 prompts" in rolling(rollout=dict(prompts=dict(path=str(file)))).described
    with pytest.raises(ValueError, match="no chosen but prompt, response, score"):
        rolling(rollout=dict(prompts=dict(path=str(file), format="paired")))

"""What a configuration's rollouts are made of: how its prompts are read, and what names their batches where a run is continued."""

import json

import jax
import pytest
import spoken

from jaxalign.config import build, functions, rollouts
from jaxalign.config.resolve import resolve


def rolling(**data):
    config = spoken.get_config("dpo")
    for key, value in data.items():
        config.data.rollout.update({key: value}) if key in ("prompts", "prompts_per_step") else config.data.update({key: value})
    cfg = resolve(config)
    with jax.set_mesh(build.mesh(cfg)):
        return rollouts.rolling(cfg, build.model(cfg), functions.objective(cfg), reward=None, tell=lambda lines: None)


def test_the_shape_of_batches_belongs_to_what_a_run_is_continued_with():
    assert rolling().prepared == rolling().prepared
    others = {rolling(row_tokens=192).prepared, rolling(prompts_per_step=2).prepared, rolling().prepared}
    assert len(others) == 3 and all(name.startswith("prompts-") for name in others)


def test_prompts_are_read_in_the_format_that_is_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(dict(prompt=f"Say {n}.", response="no", score=0.5)) + "\n" for n in range(40)))
    assert " of 40 prompts" in rolling(prompts=dict(path=str(file))).described
    with pytest.raises(ValueError, match="prompt"):
        rolling(prompts=dict(path=str(file), format="paired"))

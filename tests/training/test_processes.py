"""Two processes over loopback train as one does, save together, and their checkpoints are continued by other numbers of processes.

With KTO, whose z0 is a mean over all processes, and which begins with a column of reference log-probs that all of them write.
"""

import json
import os
from pathlib import Path
import shutil
import sys

import jax
import numpy as np
import pytest
import several_processes

from jaxalign import sharding
from jaxalign.training import sources

pytestmark = pytest.mark.slow
OPTIMIZED = True

METHODS = os.environ.get("METHODS", "kto")  # METHODS=sft,dpo,kto python -m pytest -m slow THIS_FILE: all, continued by four as well
STAGES = METHODS.split(",")
COUNTS = (1,) if len(STAGES) == 1 else (1, 4)
CONFIG = f"{Path(__file__).parents[1] / 'three_methods.py'}:{METHODS}"


def launch(workdir, cache, count, *flags):
    """The messages of so many processes that train together, all of which must end well."""
    codes, messages = outcome(workdir, cache, [flags] * count)
    assert codes == [0] * count, messages
    return messages


def outcome(workdir, cache, flags):
    """(exit codes, messages) of as many processes as there are lists of flags."""
    command = [sys.executable, "-m", "jaxalign.train", "--config", CONFIG, "--workdir", str(workdir)]
    command += [f"--config.{stage}.data.prepared_dir={cache}" for stage in STAGES]
    return several_processes.outcome([[*command, *own] for own in flags])


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("speed/")} for line in lines]


def assert_same(folder, other, tolerance):
    """Both runs end with these parameters."""
    with jax.set_mesh(sharding.make_mesh(fsdp=-1)):
        ours, theirs = (jax.device_get(sources.restore_params(each, 4)[1]) for each in (folder, other))
    for (path, left), right in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance, err_msg=f"{folder.name} {jax.tree_util.keystr(path)}")


def test_two_processes_equal_one_and_hand_over_to_others(tmp_path):
    two, one, cache = tmp_path / "two", tmp_path / "one", tmp_path / "prepared"
    launch(one, cache, 1)
    checked = launch(two, tmp_path / "other", 2, "--selfcheck")[0]
    assert "pass  forward pass repeats itself" in checked and "pass  responses likelier than chance" in checked
    for stage in STAGES:
        assert_same(two / stage, one / stage, 1e-6)
        lines = metrics(one / stage), metrics(two / stage)
        assert len(lines[0]) == len(lines[1]) == 4 + 3  # training lines and evaluations at 0, 2, 4
        for ours, theirs in zip(*lines, strict=True):
            assert ours.keys() == theirs.keys()
            for name in ours.keys() - {"split"}:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
    for count in COUNTS:
        again = tmp_path / f"again by {count}"
        shutil.copytree(two, again)
        shutil.rmtree(again / "kto" / "checkpoints" / "4")
        messages = launch(again, cache, count)
        assert f"kto continues at step 2 in {again / 'kto'}" in messages[0]
        assert_same(again / "kto", one / "kto", 1e-6)


def test_processes_that_are_started_otherwise_are_named_before_anything_is_compiled(tmp_path):
    other = ["--config.kto.optimizer.learning_rate=0.5"]
    codes, messages = outcome(tmp_path / "run", tmp_path / "prepared", [[], other])
    assert codes == [1, 1], messages
    for message in messages:
        assert "process 1 has kto.optimizer.learning_rate 0.5 (process 0: 0.001). Start all processes with the same" in message, message
    assert not (tmp_path / "prepared").exists()

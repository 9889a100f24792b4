"""Kills at random moments (data, step, save, evaluation, rollout), each resumed: the parameters and metrics at the end are the same bits.

KILLS=50 python -m pytest -m slow THIS_FILE is a sweep.
"""

import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys

import killed
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxalign.training import runs

KILLS = int(os.environ.get("KILLS", 1))
SCRIPT = str(Path(killed.__file__))
STEPS = 8


def start(workdir, cache, seed=None):
    """The finished process of a start; without a seed nobody kills it."""
    program = ["-m", "jaxalign.train"] if seed is None else [SCRIPT, str(seed), "--"]
    command = [sys.executable, *program, "--config", SCRIPT, "--workdir", str(workdir), f"--config.data.prepared_dir={cache}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(SCRIPT).parents[2]), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def end_of(workdir):
    """(every array of the last checkpoint, the metrics without what depends on the clock)."""
    assert runs.steps(workdir)[-1] == STEPS
    arrays = {}
    for item in ("trainable", "rest", "source"):
        with ocp.PyTreeCheckpointer() as reader:
            tree = reader.restore(runs.checkpoints(workdir) / str(STEPS) / item)
        arrays |= {f"{item}{path}": np.asarray(leaf) for path, leaf in _leaves(tree)}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return arrays, [{key: value for key, value in line.items() if "speed/" not in key} for line in lines]


def _leaves(tree):
    import jax

    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    cache = tmp_path / "prepared"
    whole = start(tmp_path / "whole", cache)
    assert whole.returncode == 0, whole.stderr
    arrays, lines = end_of(tmp_path / "whole")

    def check(workdir):
        again, their_lines = end_of(workdir)
        assert their_lines == lines and again.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(again[name], array, err_msg=name)

    workdir, kills, seed = tmp_path / "killed", 0, 0
    while kills < KILLS:
        done = start(workdir, cache, seed)
        assert done.returncode in (0, -signal.SIGKILL), (seed, killed.moment(seed), done.stderr)
        kills, seed = kills + (done.returncode != 0), seed + 1
        if done.returncode == 0:  # it came to its end before the moment
            check(workdir)
            shutil.rmtree(workdir)
    done = start(workdir, cache)
    assert done.returncode == 0, done.stderr
    check(workdir)

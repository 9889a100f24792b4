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
import several_processes

from jaxalign.training import runs

KILLS = int(os.environ.get("KILLS", 1))
IN_A_ROLLOUT = 2  # the first moment that is one; kills in data, steps, saves and evaluations have tests of their own
SCRIPT = str(Path(killed.__file__))
STEPS = 8


@pytest.fixture
def start(tmp_path):
    """(folder, seed) -> (exit code, messages) of a start; without a seed nobody kills it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(SCRIPT).parents[2]), "XLA_FLAGS": several_processes.flags(2)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, SCRIPT], env=environment, text=True, **pipes) as server:

        def start(workdir, seed=None):
            arguments = ["--config", SCRIPT, "--workdir", str(workdir), f"--config.data.prepared_dir={tmp_path / 'prepared'}"]
            messages = tmp_path / f"messages of {workdir.name} {seed}"
            print(json.dumps([seed, arguments, str(messages)]), file=server.stdin, flush=True)
            return int(server.stdout.readline()), messages.read_text()

        yield start


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
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(start, tmp_path):
    code, messages = start(tmp_path / "whole")
    assert code == 0, messages
    arrays, lines = end_of(tmp_path / "whole")

    def check(workdir):
        again, their_lines = end_of(workdir)
        assert their_lines == lines and again.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(again[name], array, err_msg=name)

    workdir, kills, seed = tmp_path / "killed", [], IN_A_ROLLOUT
    while len(kills) < KILLS:
        code, messages = start(workdir, seed)
        assert code in (0, -signal.SIGKILL), (seed, killed.moment(seed), messages)
        kills, seed = kills + [killed.moment(seed)[0]] * (code != 0), seed + 1
        if code == 0:  # it came to its end before the moment
            check(workdir)
            shutil.rmtree(workdir)
    code, messages = start(workdir)
    assert code == 0, messages
    check(workdir)
    assert kills[0] == "rollout"
    assert KILLS < 4 * len(killed.KINDS) or set(kills) == killed.KINDS.keys(), kills

"""launch/local.sh really trains with two processes over loopback, and stops both on a signal, with a checkpoint."""

import json
import os
from pathlib import Path
import subprocess
import sys
import time

import pytest
import several_processes

from jaxalign.training.stop import CHECK_EVERY_STEPS

pytestmark = pytest.mark.slow
OPTIMIZED = True

ROOT = Path(__file__).parents[2]
ENDED = [f"process {number} ended with exit code 75" for number in range(2)]


def test_two_local_processes_train_until_a_signal_and_save(tmp_path):
    run, errors = tmp_path / "a run", tmp_path / "errors"
    command = [str(ROOT / "launch" / "local.sh"), "--processes", "2", "--config", str(ROOT / "tests" / "tiny.py") + ":sft"]
    command += ["--workdir", str(run), "--stopped-exit-code", "75", f"--config.data.prepared_dir={tmp_path / 'prepared'}"]
    command += [f"--config.train.{setting}" for setting in ("total_steps=1000", "eval_every_steps=0", "save_every_steps=5")]
    command += ["--config.data.eval=None"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "XLA_FLAGS": several_processes.flags(1)}

    with errors.open("w") as stderr, subprocess.Popen(command, env=environment, stderr=stderr) as launcher:
        while launcher.poll() is None and not steps(run):
            time.sleep(0.1)
        launcher.terminate()
        try:
            launcher.wait(timeout=240)
        finally:
            launcher.kill()
    lines = errors.read_text()
    assert launcher.returncode == 75, lines
    began = [f"{mark}process {number} of 2 (flags): waiting for all at 127.0.0.1:" for number, mark in enumerate(("", "[1] "))]
    for words in (*began, "2 cpu device(s)", "[1] stopping at the next step", *ENDED):
        assert words in lines, lines
    logged = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(max(steps(run)))) and max(steps(run)) % CHECK_EVERY_STEPS == 0


def steps(run):
    """Steps whose checkpoints are complete."""
    return [int(folder.name) for folder in (run / "checkpoints").glob("*") if folder.name.isdigit()]

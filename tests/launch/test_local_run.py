"""launch/local.sh really trains with two processes over loopback, stops both on a signal, and continues."""

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = 12  # two processes look for a signal at every tenth


def test_two_local_processes_stop_on_a_signal_and_continue_to_the_end(tmp_path):
    overrides = {"total_steps": STEPS, "eval_every_steps": 0, "save_every_steps": 0}
    command = [str(ROOT / "launch" / "local.sh"), "--processes", "2", "--config", str(ROOT / "tests" / "tiny.py") + ":sft"]
    command += ["--workdir", str(tmp_path / "a run"), "--stopped-exit-code", "75", f"--config.data.prepared_dir={tmp_path / 'prepared'}"]
    command += [f"--config.train.{key}={value}" for key, value in overrides.items()]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}

    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as launcher:
        lines = [next(line for line in launcher.stderr if "sft starts in" in line)]
        launcher.terminate()
        lines += launcher.stderr.readlines()
    assert launcher.returncode == 75 and "2 cpu device(s)" in lines[0], lines
    assert {"process 0 ended with exit code 75\n", "process 1 ended with exit code 75\n"} <= set(lines), lines

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "process 0 of 2 (flags): waiting for all at 127.0.0.1:" in done.stderr
    assert "[1] process 1 of 2 (flags): waiting for all at 127.0.0.1:" in done.stderr
    logged = [json.loads(line) for line in (tmp_path / "a run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if line["split"] == "train"] == list(range(STEPS))

"""Two processes over loopback train as one does, save together, and their checkpoint is continued by one.

With KTO, whose z0 is a mean over all processes, and first with a column of reference log-probs that both write.
"""

import json
import os
from pathlib import Path
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CONFIG = str(Path(__file__).parents[1] / "tiny.py") + ":kto"


def launch(workdir, cache, devices, *flags):
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-m", "jaxalign.train", "--config", CONFIG, "--workdir", str(workdir), f"--config.data.prepared_dir={cache}"]
    overrides = ["--config.train.eval_every_steps=2", "--config.train.save_every_steps=2"]
    return subprocess.Popen([*command, *overrides, *flags], env=environment, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    """Messages of processes that must all end well; a hang has no time-out of its own."""
    try:
        messages = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), messages
    return messages


def metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("speed/")} for line in lines]


def test_two_processes_equal_one_and_hand_over_to_one(tmp_path):
    cache = [tmp_path / f"prepared{number}" for number in range(2)]
    steps = ["--config.train.total_steps=4", "--config.reference.rule=precomputed"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [[*steps, "--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(i)] for i in range(2)]
    finish(*(launch(tmp_path / "two", cache[0], 2, *each) for each in flags))
    finish(launch(tmp_path / "one", cache[1], 4, *steps))
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(one) == len(two) == 4 + 3  # training lines and evaluations at 0, 2, 4
    for ours, theirs in zip(two, one, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"split"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
    (message,) = finish(launch(tmp_path / "two", cache[0], 2, *steps))
    assert "continues at step 4" in message

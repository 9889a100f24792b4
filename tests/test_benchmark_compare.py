"""The comparison with another library ends, at toy size, with equal losses and with times and memory of both sides."""

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

TOY = ("--case-set", "shape=toy", "--case-set", "lengths=short", "--case-set", "pairs=4", "--block", "1", "--rounds", "2")


@pytest.mark.slow
def test_both_sides_have_the_same_losses_and_are_timed_in_turn(tmp_path):
    pytest.importorskip("torch", reason="needs torch: pip install 'jaxalign[parity]'")
    command = [sys.executable, "-m", "tests.benchmarks.compare", "--peer", "torch", "--case", "dpo-tiny", *TOY]
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "found.json")],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["equal"] and found["apart"] < 1e-5 and len(found["sides"]["ours"]["losses"]) == 3
    assert found["sides"]["ours"]["losses"][0] == pytest.approx(0.693147, abs=1e-6)
    low, high = found["speed_ratio_spread"]
    assert 0 < low <= found["speed_ratio"] <= high and found["memory_ratio"] > 0
    assert all(len(side["blocks"]) == 2 and side["tokens_per_s"] > 0 for side in found["sides"].values())

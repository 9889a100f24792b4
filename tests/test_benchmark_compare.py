"""The comparison with another library ends, at toy size, with equal losses and with times and memory of both sides."""

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

from jaxalign import chips
from jaxalign.hf.load import load_config
from tests.benchmarks.compare import report, weights, workload
from tests.benchmarks.compare.cases import Case

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


def test_a_card_of_the_table_has_its_mfu_and_another_has_none(tmp_path):
    case, block = Case("toy", "short", 4), 2
    weights.write(case, tmp_path / "toy")
    steps = workload.generated(case, steps=workload.CHECKED + block, seed=0)

    def measured(device, seconds):
        side = {"device": device, "blocks": [{"wall": seconds, "cpu": 1.0, "memory": 2**30}]}
        report.add_speeds({"device": "gpu", "sides": {"ours": side}}, case, tmp_path / "toy", steps, block=block)
        return side

    fast, slow = measured("NVIDIA H100 80GB HBM3", 1.0), measured("NVIDIA H100 80GB HBM3", 2.0)
    needed = report._flops(load_config(tmp_path / "toy"), case, sum(steps[workload.CHECKED :], []), shared=True)
    assert fast["mfu"] == pytest.approx(needed / chips.named("h100").flops) == pytest.approx(2 * slow["mfu"])
    assert fast["mfu_sequences"] > fast["mfu"]  # prompts counted twice
    assert "mfu" not in measured("a card that nobody knows", 1.0)

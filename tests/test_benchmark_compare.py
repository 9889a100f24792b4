"""A comparison with another library ends, at toy size, with equal losses and with times and memory of both sides."""

import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

from jaxalign import chips
from jaxalign.hf.load import load_config
from tests.benchmarks.compare import __main__ as command
from tests.benchmarks.compare import report, tunix_trainer, weights, workload
from tests.benchmarks.compare.cases import PAD, Case
from tests.benchmarks.compare.workload import Pair

TOY = ("--case-set", "shape=toy", "--case-set", "lengths=short", "--case-set", "pairs=4", "--block", "1", "--rounds", "2")


@pytest.mark.slow
@pytest.mark.parametrize(("peer", "package"), [("torch", "jaxalign[parity]"), ("tunix", "google-tunix")])
def test_both_sides_have_the_same_losses_and_are_timed_in_turn(tmp_path, peer, package):
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"needs {peer}: pip install '{package}'")
    asked = [sys.executable, "-m", "tests.benchmarks.compare", "--peer", peer, "--case", "dpo-tiny", *TOY]
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        [*asked, "--json", str(tmp_path / "found.json")],
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


@pytest.mark.slow
def test_a_profile_names_the_operations_of_a_step_and_its_groups(tmp_path):
    asked = [sys.executable, "-m", "tests.benchmarks.step_profile", "--case", "dpo-tiny", *TOY[:6], "--json", str(tmp_path / "found.json")]
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(asked, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"head", "head, backward", "layers", "layers, backward", "idle"} <= set(found["groups"])
    assert 0 < found["busy_s"] <= found["step_s"]
    assert sum(row["seconds"] > 0 and "lm_head" in row["path"] for row in found["operations"]) > 5
    assert "ENTRY" in (tmp_path / "found.json.hlo").read_text()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("--case kto", "method 'kto'"),
        ("--case lora", "adapters of rank 16"),
        ("--case precomputed", "a precomputed reference"),
        ("--case dpo-1b", "dtype 'bfloat16', steps of 4 parts"),
        ("--case dpo-tiny --device gpu", "device 'gpu'"),
        ("--case dpo-tiny", "pip install google-tunix"),
    ],
)
def test_tunix_refuses_what_it_cannot_run_before_anything_is_loaded(asked, sentence, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(command, "compare", lambda *_: pytest.fail("the comparison has begun"))
    monkeypatch.setattr(sys, "argv", ["compare", "--peer", "tunix", *asked.split()])
    with pytest.raises(SystemExit) as refused:
        command.main()
    assert sentence in str(refused.value)


def test_tunix_gets_prompts_padded_on_the_left_and_answers_on_the_right():
    first, second = tunix_trainer.padded([[Pair([5, 6], [[7, 8, 2], [9, 2]])], [Pair([3, 4, 5], [[8, 2], [2]])]])
    assert first["prompt_ids"].tolist() == [[PAD, 5, 6]] and first["prompt_mask"].tolist() == [[0, 1, 1]]
    assert first["rejected_ids"].tolist() == [[9, 2, PAD]] and first["rejected_mask"].tolist() == [[1, 1, 0]]
    assert second["prompt_mask"].all() and second["chosen_mask"].tolist() == [[1, 1, 0]]


def test_a_card_of_the_table_has_its_mfu_a_cpu_the_share_of_its_rate_and_another_card_none(tmp_path):
    case, block = Case("toy", "short", 4), 2
    weights.write(case, tmp_path / "toy")
    steps = workload.generated(case, steps=workload.CHECKED + block, seed=0)

    def measured(device, seconds, **known):
        side = {"device": device, **known, "blocks": [{"wall": seconds, "cpu": 1.0, "memory": 2**30}]}
        report.add_speeds({"device": "gpu", "sides": {"ours": side}}, case, tmp_path / "toy", steps, block=block)
        return side

    fast, slow = measured("NVIDIA H100 80GB HBM3", 1.0), measured("NVIDIA H100 80GB HBM3", 2.0)
    needed = report._flops(load_config(tmp_path / "toy"), case, sum(steps[workload.CHECKED :], []), shared=True)
    assert fast["mfu"] == pytest.approx(needed / chips.named("h100").flops) == pytest.approx(2 * slow["mfu"])
    assert fast["mfu_sequences"] > fast["mfu"]  # prompts counted twice
    assert "mfu" not in measured("a card that nobody knows", 1.0)
    assert measured("cpu", 1.0, gemm_flops=2 * needed)["mfu"] == pytest.approx(0.5)


def test_a_side_that_ends_in_the_middle_keeps_what_both_have(tmp_path):
    steps, block = workload.generated(Case("toy", "short", 4), steps=workload.CHECKED + 4, seed=0), 2
    sides = {name: {"device": "cpu", "blocks": [{"wall": wall, "cpu": 1.0, "memory": 2**30}] * count} for name, wall, count in
             (("ours", 1.0, 2), ("trl", 3.0, 1))}  # fmt: skip
    result = {"device": "cpu", "sides": sides}
    report.add_speeds(result, Case("toy", "short", 4), tmp_path, steps, block=block)
    assert result["speed_ratio"] == 3.0

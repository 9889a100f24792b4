"""The DPO train step compiles for TPU slices on a machine without a TPU: no call to the host, nothing large replicated, no logits.

Skipped where libtpu is not installed (extra `tpu`).
"""

import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

OPTIMIZED = True  # as on the chips
SLICES = {"v5e": ("v5e:4x4", 1, 2, 4, 2), "v5p": ("v5p:4x4x4", 1, 64, 1, 1)}  # topology, data, fsdp, tensor, context

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'jaxalign[tpu]'"),
]


@pytest.fixture(scope="module")
def reports():
    """What the compiler says of every slice; all of them compile side by side."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "XLA_FLAGS": ""}
    command = [sys.executable, str(Path(__file__).with_name("compile_step.py"))]
    running = {
        name: subprocess.Popen(
            [*command, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name, arguments in SLICES.items()
    }
    results = {}
    for name, process in running.items():
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, f"{name}: {err[-3000:]}"
        results[name] = json.loads(out.splitlines()[-1])
        print(name, results[name])
    return results


slices = pytest.mark.parametrize("name", SLICES)


@slices
def test_the_step_never_calls_the_host(reports, name):
    assert reports[name]["host"] == []


@slices
def test_attention_is_that_of_the_kernels(reports, name):
    assert reports[name]["kernels"] == ["forward", "key", "query"]


@slices
def test_the_state_is_split_over_fsdp_context_and_tensor(reports, name):
    _, data, fsdp, tensor, context = SLICES[name]
    report = reports[name]
    share = report["state_bytes"] / (fsdp * context * tensor) + report["batch_bytes"] / (data * fsdp)
    assert share <= report["argument_bytes"] <= 1.05 * share


@slices
def test_the_state_is_donated(reports, name):
    _, _, fsdp, tensor, context = SLICES[name]
    assert reports[name]["aliased_bytes"] >= 0.99 * reports[name]["state_bytes"] / (fsdp * context * tensor)


@slices
def test_no_array_is_larger_than_the_gathered_slice_of_the_vocabulary(reports, name):
    slice_of_table = reports[name]["table_elements"] / SLICES[name][3]
    assert reports[name]["largest_elements"] <= 1.02 * slice_of_table, reports[name]["largest_array"]  # the compiler fills up tiles


@slices
def test_weights_are_gathered(reports, name):
    assert reports[name]["collectives"]["all-gather"] > 0


def test_where_tokens_are_split_gradients_of_keys_are_scattered_and_no_activations_of_whole_rows_gathered(reports):
    assert reports["v5e"]["scattered_keys"] == 2 and reports["v5e"]["whole_rows"] == 0, reports["v5e"]  # of keys and of values


def test_no_activation_is_whole_on_the_chips_that_share_its_heads(reports):
    report = reports["v5e"]
    assert report["reduced_elements"] < report["token_elements"], report


def test_no_gradient_of_a_weight_is_whole_on_a_chip_where_fsdp_covers_the_torus(reports):
    report = reports["v5p"]
    assert report["collectives"]["reduce-scatter"] > 0
    assert report["reduced_elements"] < report["kernel_elements"], report


def test_layers_of_v5p_are_gathered_beside_arithmetic(reports):
    assert reports["v5p"]["overlapped"] > 0.5  # of the bytes; 0 without `compiler_options`

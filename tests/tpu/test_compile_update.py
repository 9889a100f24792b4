"""An update whose moments rest on the host compiles for a TPU on a machine without one, and holds few of them on the device at a time.

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


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'jaxalign[tpu]'")
def test_an_update_brings_the_moments_of_a_layer_at_a_time():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "XLA_FLAGS": ""}
    command = [sys.executable, str(Path(__file__).with_name("compile_update.py")), "v5e:2x2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    weights = found["parameters"]
    assert found["host"] == found["donated_on_host"] == pytest.approx(2 * weights, rel=0.01)  # both moments, updated in place
    assert found["arguments"] == pytest.approx(2 * weights, rel=0.01)  # parameters and gradient
    assert found["temporaries"] < 1.1 * weights  # the updates; all moments at once would be two or three times as much beside them
    assert found["host_calls"] == 0

"""The attention kernels compile for chips of three kinds on a machine without a TPU: heads of 64 to 256, bfloat16 and float32, a cap.

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
CHIPS = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'jaxalign[tpu]'")
def test_rows_of_4096_tokens_take_three_kernels_on_every_chip():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "XLA_FLAGS": ""}
    command = [sys.executable, str(Path(__file__).with_name("compile_attention.py")), *CHIPS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts == {chip: [3] * (3 if chip == CHIPS[0] else 1) for chip in CHIPS}  # values; dq; dk and dv

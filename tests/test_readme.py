"""What the README shows works as it stands there."""

import json
import os
from pathlib import Path
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxalign import train
from jaxalign.config.command_line import from_command_line
from jaxalign.types import Batch, Outputs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"python -m jaxalign\.train (.*)", README)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_train_command_is_accepted(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert from_command_line(shlex.split(command), "test", train.FLAGS).stages


EXAMPLE, NAME = next(
    (block, re.search(r"^def (\w+)", block, re.MULTILINE)[1])
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    if "REQUIRES" in block
)


def test_the_example_objective_is_1_where_policy_and_reference_are_equal():
    example: dict = {}
    exec(EXAMPLE, example)
    tokens = np.zeros((2, 6), np.int32)
    slots = np.array([[-1, 0, 0, -1, 1, 1]] * 2)
    batch = Batch(tokens, tokens, tokens, tokens, slots, np.zeros((2, 2)), np.array([True, False]), np.ones((2, 2), bool))
    same = Outputs(np.full((2, 6), -1.5, np.float32), None, None)
    terms = example[NAME](same, same, batch, beta=0.05)
    np.testing.assert_array_equal(terms.loss, [1.0, 1.0])
    np.testing.assert_array_equal(terms.weight, [1.0, 0.0])  # the second group is no pair


COSTLY = """
import jax

from jaxalign.types import Terms, column, sum_responses

REQUIRES = ("columns.cost",)


def costly(policy, reference, batch):
    # Likelihood, a response weighed by what it costs: no other objective reads that column.
    nll = -sum_responses(policy.logps, batch)
    return Terms(jax.nn.sigmoid(column(batch, "cost")) * nll, batch.valid.astype("float32"), {})
"""


@pytest.fixture(scope="module")
def with_the_example(tmp_path_factory):
    """A copy of the package and its tests in which the example was added as the README says, one file, and one that reads a new column."""
    folder = tmp_path_factory.mktemp("copy")
    for part in ("jaxalign", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "jaxalign" / "objectives" / f"{NAME}.py").write_text(EXAMPLE)
    (folder / "jaxalign" / "objectives" / "costly.py").write_text(COSTLY)
    return folder


def test_the_contract_takes_up_the_example_and_it_keeps_its_promises(with_the_example):
    files = [f"tests/{name}.py" for name in ("test_contract", "test_objectives")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", f"{NAME} or costly"]
    environment = {**os.environ, "PYTHONPATH": str(with_the_example)}
    done = subprocess.run(command, cwd=with_the_example, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 30


def test_a_run_with_the_example_starts_at_its_known_loss(with_the_example, tmp_path):
    settings = ["objective.beta=0.05", "train.total_steps=1", "data.eval=None", f"data.prepared_dir={tmp_path}"]
    arguments = ["--config", f"tests/tiny.py:{NAME}", "--workdir", str(tmp_path / "run"), *(f"--config.{key}" for key in settings)]
    environment = {**os.environ, "PYTHONPATH": str(with_the_example)}
    command = [sys.executable, "-m", "jaxalign.train", *arguments]
    subprocess.run(command, cwd=with_the_example, env=environment, capture_output=True, text=True, check=True)
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == 1.0


def test_every_file_that_it_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []

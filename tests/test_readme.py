"""What the README shows works as it stands there."""

import json
import os
from pathlib import Path
import re
import shlex
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import train
from jaxalign.config import keys
from jaxalign.config.command_line import from_command_line
from jaxalign.config.stages import resolve_stages
from jaxalign.types import Batch, Outputs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"python -m jaxalign\.train (.*)", README)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_train_command_is_accepted(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert from_command_line(shlex.split(command), "test", train.FLAGS).stages


def test_the_config_is_whole():
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "def get_config" in block]
    example: dict = {}
    exec(block, example)
    resolved = resolve_stages(example["get_config"]())[""]
    assert resolved.objective.name == "dpo" and resolved.train.total_epochs == 2


@pytest.mark.parametrize("section", re.findall(r"`([\w.]+)`", re.search(r"`--help-config SECTION` \((.*?)\)", README, re.DOTALL)[1]))
def test_every_section_that_it_names_is_explained(section):
    assert "; default " in keys.text(section)


EXAMPLES = {
    re.search(r"^def (\w+)", block, re.MULTILINE)[1]: block
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    if "REQUIRES" in block
}


def terms_of(name, **options):
    """What an example returns where policy and reference are equal: two groups of two responses, a pair and two judged by themselves."""
    example: dict = {}
    exec(EXAMPLES[name], example)
    tokens = np.zeros((2, 6), np.int32)
    slots = np.array([[-1, 0, 0, -1, 1, 1]] * 2)
    rewards = np.array([[1.0, 0.0], [0.5, 1.0]])
    arrays = (tokens, tokens, tokens, tokens, slots, rewards, np.array([True, False]), np.ones((2, 2), bool))
    batch = Batch(*map(jnp.asarray, arrays))
    same = Outputs(jnp.full((2, 6), -1.5))
    return example[name](same, same, batch, **options)


def test_the_example_on_pairs_is_1_where_policy_and_reference_are_equal():
    terms = terms_of("squared_hinge", beta=0.05)
    np.testing.assert_array_equal(terms.loss, [1.0, 1.0])
    np.testing.assert_array_equal(terms.weight, [1.0, 0.0])  # the second group is no pair


def test_the_example_on_responses_weighs_the_likelihood_by_the_exponential_of_the_reward():
    terms = terms_of("reward_weighted", temperature=0.5)
    np.testing.assert_allclose(terms.loss, 3.0 * np.exp([[0.0, -2.0], [-1.0, 0.0]]), rtol=1e-6)  # two tokens of 1.5 nats
    np.testing.assert_array_equal(terms.weight, np.ones((2, 2)))


def test_every_objective_is_named_with_its_file():
    files = {path.stem for path in (ROOT / "jaxalign" / "objectives").glob("*.py")} - {"__init__"}
    assert files == set(re.findall(r"\]\(jaxalign/objectives/(\w+)\.py\)", README)) - {"__init__"}
    assert f"serves {len(files)} objectives" in README


def test_every_other_command_is_accepted(monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = set(re.findall(r"python -m jaxalign\.(\w+)", README))
    assert {"train", "inspect", "export", "evaluate", "compare"} <= commands
    assert all((ROOT / "jaxalign" / f"{command}.py").is_file() for command in commands)


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
    """A copy of the package and its tests in which the examples were added as the README says, a file each, and one with a new column."""
    folder = tmp_path_factory.mktemp("copy")
    for part in ("jaxalign", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in EXAMPLES.items():
        (folder / "jaxalign" / "objectives" / f"{name}.py").write_text(text)
    (folder / "jaxalign" / "objectives" / "costly.py").write_text(COSTLY)
    return folder


@pytest.mark.slow
def test_the_contract_takes_up_the_examples_and_they_keep_its_promises(with_the_example):
    files = [f"tests/{name}.py" for name in ("test_contract", "test_objectives")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", " or ".join([*EXAMPLES, "costly"])]
    environment = {**os.environ, "PYTHONPATH": str(with_the_example)}
    done = subprocess.run(command, cwd=with_the_example, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 30


@pytest.mark.slow
def test_a_run_with_the_example_starts_at_its_known_loss(with_the_example, tmp_path):
    settings = ["objective.beta=0.05", "train.total_steps=1", "data.eval=None", f"data.prepared_dir={tmp_path}"]
    arguments = ["--config", "tests/tiny.py:squared_hinge", "--workdir", str(tmp_path / "run"), *(f"--config.{key}" for key in settings)]
    environment = {**os.environ, "PYTHONPATH": str(with_the_example)}
    command = [sys.executable, "-m", "jaxalign.train", *arguments]
    subprocess.run(command, cwd=with_the_example, env=environment, capture_output=True, text=True, check=True)
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == 1.0


def test_every_file_that_it_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []

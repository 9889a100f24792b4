"""What the README shows works as it stands there."""

from pathlib import Path
import re
import shlex

import numpy as np
import pytest

from jaxalign import config, train
from jaxalign.types import Batch, Outputs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"python -m jaxalign\.train (.*)", README)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_train_command_is_accepted(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert config.from_command_line(shlex.split(command), "test", train.FLAGS).stages


def test_the_example_objective_is_1_where_policy_and_reference_are_equal():
    (source,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "REQUIRES" in block]
    example: dict = {}
    exec(source, example)
    tokens = np.zeros((2, 6), np.int32)
    slots = np.array([[-1, 0, 0, -1, 1, 1]] * 2)
    batch = Batch(tokens, tokens, tokens, tokens, slots, np.zeros((2, 2)), np.array([True, False]), np.ones((2, 2), bool))
    same = Outputs(np.full((2, 6), -1.5, np.float32), None, None)
    terms = example["slic"](same, same, batch, beta=0.05)
    np.testing.assert_array_equal(terms.loss, [1.0, 1.0])
    np.testing.assert_array_equal(terms.weight, [1.0, 0.0])  # the second group is no pair


def test_every_file_that_it_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []

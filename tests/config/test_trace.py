"""Objectives that somebody writes: what fails in their file is one sentence with the file and the line, before anything runs."""

import importlib
import sys

import pytest
from test_config import good

from jaxalign import objectives
from jaxalign.config.resolve import ConfigError, resolve

HEAD = """
import jax.numpy as jnp
from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Terms
REQUIRES = ("paired",)
def mine(policy, reference, batch, *, beta: float = 0.1):
    pair = pairs(policy, reference, batch)
    ones = jnp.ones_like(pair.margin)
"""


@pytest.fixture
def problem(tmp_path, monkeypatch):
    """Takes the text of an objective `mine`; gives the one problem that a configuration with it has."""

    def checked(text):
        (tmp_path / "mine.py").write_text(text)
        monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path)])
        monkeypatch.setattr(objectives, "names", lambda: ["mine"])
        monkeypatch.setattr(objectives, "__file__", str(tmp_path / "__init__.py"))
        importlib.invalidate_caches()
        try:
            with pytest.raises(ConfigError) as error:
                resolve(good(objective=dict(name="mine")))
        finally:
            sys.modules.pop("jaxalign.objectives.mine", None)
        first, line = str(error.value).splitlines()
        assert first.endswith("has 1 problem:")
        return line

    return checked


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    return pair_terms(pair.lost, pair, beta=beta)", "mine.py, line 9: AttributeError: 'Pairs' object has no attribute 'lost'"),
        ("    return pair_terms(los, pair, beta=beta)", "mine.py, line 9: NameError: name 'los' is not defined"),
        ("    return Terms(jnp.ones(2) + jnp.ones(5), ones, {})", "mine.py, line 9: TypeError: add got incompatible shapes"),
        ("    return Terms(jnp.broadcast_to(jnp.ones(5), (3,)), ones, {})", "mine.py, line 9: ValueError: Incompatible"),
        ("    return float(ones[0])", "mine.py, line 9: ConcretizationTypeError"),
        ("    raise ValueError('a rule of mine; a way out.')", "a rule of mine; a way out."),
        ("    return ones.mean()", "returns ShapeDtypeStruct, not Terms(loss, weight, metrics)"),
        ("    return Terms(ones.mean(), ones, {})", "returns a loss of shape () and a weight of (1,)"),
        ("    return Terms(ones, ones, {'x': ones})", "metrics in which 'x' is no pair of arrays"),
        ("    return Terms(ones, ones, {'x': (ones.mean(), ones)})", "the metric 'x' of shape () with weights of shape (1,)"),
        ("    return Terms(ones, ones, None)", "metrics in which 'metrics' is no pair"),
    ],
)
def test_what_fails_in_an_objective_is_named_with_its_file_and_line(problem, body, words):
    assert words in problem(f"{HEAD}{body}\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def mine(:\n", "mine.py, line 1: SyntaxError: invalid syntax"),
        ("import jax\nimport nowhere_at_all\n", "mine.py, line 2: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("x = 1 / 0\n", "mine.py, line 1: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(problem, text, words):
    assert words in problem(text)

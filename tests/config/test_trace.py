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


@pytest.mark.parametrize(
    ("sections", "metric", "words"),
    [
        ({}, "-acuracy", "is no held-out metric of this run (did you mean accuracy?)"),
        (dict(data=dict(train=dict(path="x"), eval_fraction=0.1)), "los", "(did you mean loss?)"),
        (dict(data=dict(train=dict(path="x"), eval=dict(a=dict(path="y"), b=dict(path="z")))), "a/acuracy", "(did you mean a/accuracy?)"),
        (dict(objective=dict(name="simpo")), "kl", "is no held-out metric of this run; there are accuracy"),
        (dict(reference=dict(rule="hard", every_steps=2)), "-initial/acuracy", "(did you mean initial/accuracy?)"),
    ],
)
def test_a_metric_that_no_evaluation_can_give_is_one_problem_of_the_configuration(sections, metric, words):
    held_out = dict(data=dict(train=dict(path="x"), eval=dict(path="y")))
    with pytest.raises(ConfigError) as error:
        resolve(good(**{**held_out, **sections, "train": dict(total_steps=9, best_metric=metric)}))
    assert "has 1 problem:" in str(error.value) and words in str(error.value)


@pytest.mark.parametrize(
    ("metric", "sections"),
    [
        ("-accuracy", {}),
        ("kl", {}),
        ("-rewards/margins", {}),
        ("-initial/accuracy", dict(reference=dict(rule="soft", every_steps=2))),
        ("loss", dict(objective=dict(name="kto"))),
        ("-accuracy", dict(reference=dict(rule="precomputed"))),
        ("loss", dict(objective=dict(name="value"), model=dict(checkpoint="a", value_head=1.0, trainable="value_head"))),
        ("loss", dict(objective=dict(name="una", offset="ema"))),
    ],
)
def test_a_metric_of_the_run_passes(metric, sections):
    held_out = dict(data=dict(train=dict(path="x"), eval=dict(path="y")))
    config = good(**{**held_out, **sections, "train": dict(total_steps=9, keep_best=1, best_metric=metric)})
    assert resolve(config).train.best_metric == metric

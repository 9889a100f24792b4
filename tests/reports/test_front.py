"""The front of several methods from the held-out metrics of a run's stages."""

import json

import pytest

from jaxalign.experiments import front

METHODS = {"first": ["a", "b", "c"], "second": ["a", "d"]}
PLACES = {"a": (0.0, 1.0), "b": (0.25, 0.25), "c": (1.0, 0.0), "d": (0.5, 0.5)}


@pytest.fixture
def run(tmp_path):
    """A run whose stages end at PLACES."""
    for stage, (x, y) in PLACES.items():
        (tmp_path / stage).mkdir()
        lines = [dict(step=0, split="eval", x=9.0, y=9.0, kl=0.0), dict(step=5, split="eval", x=x, y=y, kl=0.5)]
        (tmp_path / stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_points_that_another_of_the_same_method_dominates_are_not_on_its_front(run):
    found = front.run(run / "front", methods=METHODS, x="x", y="y", corner=(-1.0, -1.0), kl=("kl",))
    assert found["first"]["front"] == ["a", "b", "c"] and found["second"]["front"] == ["a", "d"]
    # [-1, 0] x [-1, 1] + [0, 0.25] x [-1, 0.25] + [0.25, 1] x [-1, 0]; of the second [0, 0.5] x [-1, 0.5]
    assert found["first"]["hypervolume"] == pytest.approx(2 + 0.25 * 1.25 + 0.75)
    assert found["second"]["hypervolume"] == pytest.approx(2 + 0.5 * 1.5)
    assert json.loads((run / "front" / "results.json").read_text()) == found
    assert "| second | d | 0.5000 | 0.5000 | 0.5000 | yes |" in (run / "front" / "table.md").read_text()
    assert (run / "front" / "plot.png").stat().st_size > 5000


def test_a_metric_that_a_stage_does_not_have_is_refused_with_those_it_has(run):
    with pytest.raises(ValueError, match="stage a has no held-out metric 'z'; there are kl, .* x, y"):
        front.run(run / "front", methods=METHODS, x="z", y="y", corner=(0.0, 0.0))

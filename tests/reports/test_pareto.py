"""Pareto fronts and their area against the golden vector and by hand."""

import json
import pathlib

import numpy as np
import pytest

from jaxalign.reports import pareto

CASES = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "vectors-modpo-alol.json").read_text())["cases"]
GIVEN, EXPECTED = next((case["inputs"], case["expected"]) for case in CASES if case["id"] == "mo_baselines_6")


def test_the_golden_front_and_its_hypervolume_come_out():
    points = np.array(GIVEN["pareto"]["points"])
    np.testing.assert_array_equal(points[pareto.pareto_front(points)], EXPECTED["pareto_front"])
    assert pareto.hypervolume_2d(points, GIVEN["pareto"]["ref_point"]) == EXPECTED["hypervolume"]


def test_equal_points_stay_and_a_point_that_is_worse_in_one_objective_alone_goes():
    np.testing.assert_array_equal(pareto.pareto_front([[1, 1], [2, 2], [2, 2], [2, 1]]), [1, 2])


def test_a_front_of_three_objectives_is_a_surface():
    np.testing.assert_array_equal(pareto.pareto_front([[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0.5]]), [0, 2, 1])


@pytest.mark.parametrize(
    ("points", "area"), [([[2, 3]], 2.0), ([[2, 3], [2, 3]], 2.0), ([[0, 9]], 0.0), ([[3, 0.5]], 0.0), ([[3, 2], [2, 3]], 3.0)]
)
def test_the_hypervolume_counts_from_the_reference_point_on(points, area):
    assert pareto.hypervolume_2d(points, (1, 1)) == area


def test_the_front_of_every_method_is_drawn(tmp_path):
    path = tmp_path / "plots" / "front.png"
    methods = {"MODPO": [(0.1, 0.9, "0.1"), (0.5, 0.5, "0.5"), (0.2, 0.2, "bad")], "soup": [(0.3, 0.3, "0.5")]}
    pareto.front_plot(path, methods, xlabel="helpful", ylabel="harmless")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000

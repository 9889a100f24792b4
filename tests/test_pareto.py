"""Pareto fronts, hypervolume, best-of-n and soups against the golden vector and by hand."""

import json
import pathlib

import numpy as np
import pytest

from jaxalign import pareto

CASES = json.loads((pathlib.Path(__file__).parent / "golden" / "vectors-modpo-alol.json").read_text())["cases"]
GIVEN, EXPECTED = next((case["inputs"], case["expected"]) for case in CASES if case["id"] == "mo_baselines_6")


def test_the_golden_front_and_its_hypervolume_come_out():
    points = np.array(GIVEN["pareto"]["points"])
    np.testing.assert_array_equal(points[pareto.pareto_front(points)], EXPECTED["pareto_front"])
    assert pareto.hypervolume_2d(points, GIVEN["pareto"]["ref_point"]) == EXPECTED["hypervolume"]


def test_the_golden_best_of_n_comes_out():
    given = GIVEN["best_of_n"]
    np.testing.assert_allclose(np.array(given["rewards"]) @ given["w"], EXPECTED["bon_scores"])
    assert pareto.best_of_n(given["rewards"], given["w"]) == EXPECTED["bon_index"]
    np.testing.assert_allclose([pareto.best_of_n_kl(n) for n in given["n_for_kl"]], EXPECTED["bon_kl"], rtol=1e-9)


def test_best_of_n_is_taken_for_every_prompt():
    rewards = np.zeros((3, 4, 2))
    rewards[[0, 1, 2], [3, 0, 1], 1] = 1
    np.testing.assert_array_equal(pareto.best_of_n(rewards, [0.5, 0.5]), [3, 0, 1])


def test_the_golden_soup_comes_out():
    given = GIVEN["soup"]
    trees = [{"layers": {"kernel": np.array(given[f"theta_{i}"])}} for i in (1, 2)]
    np.testing.assert_allclose(pareto.soup(trees, given["w"])["layers"]["kernel"], EXPECTED["soup_theta"])


def test_a_soup_needs_a_weight_for_every_tree():
    with pytest.raises(ValueError, match="soup of 2 parameter trees got 1 weights"):
        pareto.soup([{}, {}], [1.0])


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

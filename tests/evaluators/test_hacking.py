"""The KL of whole texts against enumeration, and the monitor of teacher hacking, by their vectors."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from jaxalign.evaluators.hacking import Curve, smoothed
from jaxalign.evaluators.sequence_kl import SequenceKL

VECTORS = {case["id"]: case for case in json.loads((Path(__file__).parents[1] / "golden" / "vectors-distill.json").read_text())["cases"]}


def tables(language):
    """log-probs [2, V = 2] of both tokens along each of the four texts of a language, and the probability of each text."""
    first = np.array([1 - language["p1"], language["p1"]])
    second = np.array([[1 - p, p] for p in language["p2"]])
    texts = list(itertools.product(range(2), repeat=2))
    return np.log([[first, second[a]] for a, _ in texts]), np.array([first[a] * second[a, b] for a, b in texts])


@pytest.mark.parametrize(
    ("speaker", "model", "name"),
    [
        ("teacher", "student", "proxy_kl_teacher_student"),
        ("oracle", "student", "golden_kl_oracle_student"),
        ("oracle", "teacher", "kl_oracle_teacher"),
        ("student", "teacher", "reverse_seq_kl_student_teacher"),
    ],
)
def test_over_all_texts_the_sequence_kl_is_the_enumerated_one(speaker, model, name):
    (log_p, weight), (log_q, _) = (tables(VECTORS["D3"]["inputs"][side]) for side in (speaker, model))
    counts = np.rint(weight * 10_000).astype(int)  # every text as often as the speaker says it
    np.testing.assert_allclose(counts / 10_000, weight)
    every, other = (np.repeat(table, counts, axis=0)[None] for table in (log_p, log_q))
    found = SequenceKL(every, np.ones(every.shape[:3], bool), lambda _: other).measure(None)
    np.testing.assert_allclose(found.value, VECTORS["D3"]["expected"][name], rtol=1e-8)
    np.testing.assert_allclose(found.by_place.sum(), found.value)
    assert found.standard_error == 0  # of one prompt nothing is known


def test_tokens_behind_the_end_of_a_sample_do_not_count_and_the_error_is_that_of_prompts():
    draw = np.random.default_rng(0)
    log_p, log_q = (np.log(draw.dirichlet(np.ones(3), (5, 2, 4))) for _ in range(2))
    scored = np.arange(4) < draw.integers(1, 5, (5, 2))[:, :, None]
    found = SequenceKL(log_p, scored, lambda _: log_q).measure(None)
    by_prompt = (np.where(scored, (np.exp(log_p) * (log_p - log_q)).sum(-1), 0).sum(-1)).mean(1)
    np.testing.assert_allclose([found.value, found.standard_error], [by_prompt.mean(), by_prompt.std(ddof=1) / 5**0.5])


def test_the_monitor_has_the_values_of_the_vector():
    inputs, expected = VECTORS["D4"]["inputs"], VECTORS["D4"]["expected"]
    curve = Curve(*(inputs[name] for name in ("steps", "proxy", "golden")))
    fitted = inputs["steps"][0], inputs["steps"][inputs["fit_points"] - 1]
    flags = curve.flags(tolerance=inputs["tol"])
    np.testing.assert_array_equal(flags, expected["hacking_flags"])
    assert np.argmin(curve.golden) == expected["golden_argmin_index"]
    assert np.array(curve.steps)[flags][0] == expected["first_flag_step"]
    np.testing.assert_allclose([curve.rise(), curve.slope(*fitted)], [expected["golden_rise_fraction"], expected["fit_slope_b"]])
    np.testing.assert_allclose(curve.deviation(*fitted), expected["log_deviation"], atol=1e-9)
    np.testing.assert_allclose(curve.slope_ratio(fitted, fitted), 1.0)
    assert np.isnan(curve.slope(1.0, 2.0))


def test_smoothing_keeps_the_mean_of_a_line_and_one_point_keeps_all():
    line = [1.0, 2.0, 3.0, 4.0]
    np.testing.assert_allclose(smoothed(line, 3), [1.5, 2.0, 3.0, 3.5])
    np.testing.assert_array_equal(smoothed(line, 1), line)
    with pytest.raises(ValueError, match="window=2 has no middle"):
        smoothed(line, 2)

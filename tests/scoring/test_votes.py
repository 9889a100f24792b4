"""The area under the ROC curve, the filter, the votes: the golden case, plain counts, and the edges."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxalign.scoring import votes

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "vectors-goal-feature.json").read_text())["cases"]["G3"]
GIVEN, EXPECTED = GOLDEN["inputs"], GOLDEN["expected"]


def test_the_golden_filter_and_votes():
    options = {"threshold": GIVEN["threshold"], "skip": GIVEN["skip_first"]}
    after = votes.vote(GIVEN["answers"], GIVEN["is_correct"], GIVEN["cosines"], **options)
    assert list(after.kept) == EXPECTED["keep"]
    assert (after.tokens, after.saved) == (EXPECTED["tokens_counted"], EXPECTED["tokens_saved"])
    assert votes.vote(GIVEN["answers"], GIVEN["is_correct"]).optimistic == EXPECTED["majority_correct_before"]
    assert after.optimistic == EXPECTED["majority_correct_after"]


def test_the_golden_area_and_places():
    assert votes.auroc(GIVEN["scores"], GIVEN["labels"]) == EXPECTED["auroc"]
    assert [votes.partial_index(GIVEN["n"], q) for q in GIVEN["quantiles"]] == EXPECTED["partial_indices"]


def test_the_area_is_the_share_of_pairs_in_order():
    draw = np.random.default_rng(0)
    scores, labels = draw.integers(0, 6, 60), draw.random(60) < 0.4
    difference = scores[labels][:, None] - scores[~labels]
    np.testing.assert_allclose(votes.auroc(scores, labels), ((difference > 0) + 0.5 * (difference == 0)).mean(), rtol=1e-12)


def test_the_area_of_one_kind_is_no_number_and_lengths_must_agree():
    assert np.isnan(votes.auroc([1.0, 2.0], [True, True]))
    with pytest.raises(ValueError, match="one label for each score"):
        votes.auroc([1.0, 2.0], [True])
    with pytest.raises(ValueError, match="1 of 3 scores are not finite"):
        votes.auroc([1.0, np.nan, 2.0], [True, False, False])


def test_a_tie_is_right_by_the_published_count_and_not_by_the_plain_one():
    tie = votes.vote(["7", "9"], [True, False])
    assert (tie.optimistic, tie.plain) == (True, False)
    assert (tie.tokens, tie.saved) == (0, 0)


def test_samples_without_an_answer_do_not_win():
    assert votes.vote([None, None, "7"], [False, False, True]).plain
    silent = votes.vote([None, None], [False, False])
    assert (silent.optimistic, silent.plain) == (False, False)
    right_one_dropped = votes.vote([None, "7"], [False, True], [np.ones(6), np.array([1, 1, 1, 1, 1, -1.0])])
    assert (right_one_dropped.kept, right_one_dropped.optimistic) == ((True, False), False)


@pytest.mark.parametrize(("right", "cosines"), [([True], None), ([True, False], [np.ones(6)])])
def test_a_vote_over_other_samples_is_refused(right, cosines):
    with pytest.raises(ValueError, match="one of each per sample"):
        votes.vote(["7", "9"], right, cosines)


def test_a_cosine_that_is_no_number_is_a_violation():
    assert votes.violation(np.array([1.0, np.nan, 1.0]), skip=0) == 1


def test_a_filter_that_would_drop_all_drops_none_and_saves_nothing():
    found = votes.vote(["7", "9"], [True, False], [np.full(9, -1.0), np.full(3, -1.0)], skip=2)
    assert (found.kept, found.tokens, found.saved) == ((True, True), 8, 0)


def test_a_short_answer_has_no_token_that_counts():
    assert votes.violation(np.full(5, -1.0)) is None
    assert votes.violation(np.array([-1.0, 0.2, -0.1]), skip=1) == 2

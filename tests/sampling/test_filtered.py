"""The filter before a vote: what is kept, how much it saves, and when the majority is right."""

import numpy as np

from jaxalign.sampling import filtered

HIGH, LOW = np.full(8, 0.5), np.array([0.5] * 6 + [-0.5] * 2)  # the second falls at its seventh token


def test_samples_that_leave_the_goal_are_dropped_and_the_vote_is_of_the_others():
    found = [[HIGH, LOW, LOW], [LOW, LOW], [HIGH]]
    texts = [["it is 4", "it is 5", "so 5"], ["1", "2"], ["no number"]]
    left = filtered.keep(found, texts, ["2 + 2 = 4", None, "#### 7"], threshold=0.0)
    assert left.kept == [(True, False, False), (True, True), (True,)]
    assert left.lowest == [[0.5, -0.5, -0.5], [-0.5, -0.5], [0.5]]
    assert left.report == [
        "filter: 2 of 6 samples are dropped, whose cosine falls below 0; 22.2% of the tokens come after that",  # 4 of 6 x 3
        "filter: 1 of 3 prompts would keep no sample, and keep all",
        "vote: the majority is right on 0.0% without the filter, 50.0% with the filter (2 prompts whose rows have an answer)",
    ]


def test_a_threshold_below_all_cosines_keeps_every_sample():
    left = filtered.keep([[HIGH, LOW]], [["1", "2"]], [None], threshold=-1.0)
    assert left.kept == [(True, True)]
    assert left.report == ["filter: 0 of 2 samples are dropped, whose cosine falls below -1; 0.0% of the tokens come after that"]


def test_a_sample_that_ends_before_the_filter_looks_is_kept():
    left = filtered.keep([[LOW[-3:]]], [["1"]], [None], threshold=0.0)
    assert (left.kept, left.lowest) == ([(True,)], [[1.0]])

"""From rewards of samples to what a batch trains on: every rule on small tables, with ties and missing rewards."""

import numpy as np
import pytest

from jaxalign.rollout.feedback import FEEDBACK, best, check_labels, check_scores, labels, pairs, samples, scores, tied, without_end

NONE = np.nan
REWARDS = np.array([[1.0, 3.0, 2.0], [2.0, 2.0, 2.0], [NONE, 5.0, 4.0], [NONE, NONE, 7.0], [NONE, NONE, NONE]], np.float32)
TIES = [False, True, False, False, False]
KNOWN = ~np.isnan(REWARDS)


def test_a_prompt_is_tied_where_all_its_known_rewards_are_equal():
    assert tied(REWARDS).tolist() == TIES


def test_a_pair_is_the_best_against_the_worst_of_the_samples_with_a_reward():
    judged = pairs(REWARDS)
    assert judged.chosen[[0, 2]].tolist() == [[1, 0], [1, 2]]
    assert judged.valid.tolist() == [[True, True], [False, False], [True, True], [False, False], [False, False]]
    assert (judged.reward == [1.0, 0.0]).all()


def test_the_best_is_the_first_of_the_samples_with_the_highest_reward():
    judged = best(REWARDS)
    assert judged.chosen[:4].tolist() == [[1], [0], [1], [2]] and judged.valid.tolist() == [[True]] * 4 + [[False]]
    assert (judged.reward == 1).all()


def test_scores_are_the_sigmoid_of_rewards_and_a_sample_without_one_is_not_trained():
    judged = scores(REWARDS)
    np.testing.assert_allclose(judged.reward[KNOWN], 1 / (1 + np.exp(-REWARDS[KNOWN])), rtol=1e-6)
    assert (judged.valid == KNOWN).all() and np.isfinite(judged.reward).all()
    assert judged.chosen.tolist() == [[0, 1, 2]] * len(REWARDS)


def test_scores_are_linear_within_their_range_and_clipped_beyond():
    judged = scores(np.array([[-9.0, 1.0, 2.0, 3.0, 9.0]]), score_transform="linear", score_range=(1.0, 3.0))
    assert judged.reward.tolist() == [[0.0, 0.0, 0.5, 1.0, 1.0]]


def test_rewards_of_any_size_have_a_score_without_a_warning():
    with np.errstate(all="raise"):
        assert scores(np.array([[-1e30, 1e30]], np.float32)).reward.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(score_transform="log"), "'log' is not one of sigmoid, linear, none"),
        (dict(score_transform="linear"), "give (worst, best)"),
        (dict(score_range=(0, 1)), "leave it out"),
        (dict(score_transform="linear", score_range=(1, 1)), "must be (worst, best)"),
        (dict(score_transform="linear", score_range=(1, 2, 3)), "must be (worst, best)"),
        (dict(score_transform="linear", score_range=5), "must be (worst, best)"),
        (dict(score_transform="linear", score_range=(0, "b")), "must be (worst, best)"),
    ],
)
def test_options_of_scores_that_do_not_go_together_are_refused(options, words):
    with pytest.raises(ValueError) as error:
        check_scores(**{"score_transform": "sigmoid", "score_range": None, **options})
    assert words in str(error.value)


def test_scores_that_are_none_are_refused_and_raw_ones_are_any_number():
    with pytest.raises(ValueError, match=r"score_transform='none' takes scores from 0 to 1, and there are rewards from 0 to 7"):
        scores(REWARDS, score_transform="none")
    known = np.array([[0.0, 0.5, NONE, 1.0]], np.float32)
    assert scores(known, score_transform="none").reward.tolist() == [[0.0, 0.5, 0.0, 1.0]]
    assert scores(REWARDS, score_transform="raw").reward[0].tolist() == [1.0, 3.0, 2.0]


def test_a_text_without_its_end_loses_the_penalty_and_is_held_down():
    rewards, stopped = np.array([[2.0, 2.0, -3.0]]), np.array([[True, False, False]])
    np.testing.assert_array_equal(without_end(rewards, stopped, penalty=1.0), [[2.0, 1.0, -4.0]])
    np.testing.assert_array_equal(without_end(rewards, stopped, most=-1.0), [[2.0, -1.0, -3.0]])


def test_labels_compare_with_the_mean_of_the_prompt_and_leave_ties_out():
    judged = labels(REWARDS)
    assert judged.reward[0].tolist() == [0.0, 1.0, 0.0] and judged.reward[2].tolist()[1:] == [1.0, 0.0]
    assert judged.valid.tolist() == [[True] * 3, [False] * 3, [False, True, True], [False, False, True], [False] * 3]


@pytest.mark.parametrize("threshold", ["0.5", True, (1, 2)])
def test_a_threshold_that_is_no_number_is_refused(threshold):
    with pytest.raises(ValueError, match="is no number"):
        check_labels(threshold=threshold)


def test_labels_by_a_threshold_train_on_ties_too():
    judged = labels(REWARDS, threshold=1.5)
    assert judged.reward[:2].tolist() == [[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    assert (judged.valid == KNOWN).all()


def test_samples_are_all_good():
    judged = samples(np.ones((2, 3)))
    assert (judged.reward == 1).all() and judged.valid.all()


@pytest.mark.parametrize("name", FEEDBACK)
def test_every_feedback_lays_as_many_responses_as_it_says_and_no_number_is_missing(name):
    kind = FEEDBACK[name]
    judged = kind.judge(REWARDS)
    shape = (len(REWARDS), kind.responses(3))
    assert judged.chosen.shape == judged.reward.shape == judged.valid.shape == shape
    assert np.isfinite(judged.reward).all()

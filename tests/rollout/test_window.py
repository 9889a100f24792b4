"""What is told of a window, and what becomes of its rewards: with a sampler and rewards of numbers, without a model."""

import numpy as np
import pytest

from jaxalign.data.raw.prompts import Asked
from jaxalign.rollout.feedback import pairs, rewards_alone
from jaxalign.rollout.layout import Layout
from jaxalign.rollout.prompts import Prompts
from jaxalign.rollout.window import Speech, Windows
from jaxalign.sampling.sampler import Sample
from jaxalign.sampling.stopping import Stopping
from jaxalign.scoring.faults import Fault
from jaxalign.scoring.rewards import Reward
from jaxalign.scoring.rules import Rule
from jaxalign.training import guards

K, SIZE, NEW = 3, 2, 4


class Sampler:
    """Says numbers of its own for every prompt, number and seed; the third sample of a prompt goes on for ever."""

    stopping = Stopping(NEW, ids=(2,))

    def __init__(self, endless=False):
        self.endless, self.seeds = endless, []

    def draw(self, params, prompts, *, samples, seed, room):
        self.seeds.append(seed)
        for i, prompt in enumerate(prompts):
            for number in range(samples):
                draw = np.random.default_rng([seed, *prompt, number])
                goes_on = self.endless or number == 2
                ids = draw.integers(3, 90, NEW if goes_on else 1 + number).astype(np.int32)
                yield Sample(i, number, ids, *[np.zeros(len(ids), np.float32)] * 2, "length" if goes_on else "stop")


class Speaker:
    def spoken(self, prompt, sample, stopping):
        return " ".join(map(str, sample.token_ids))


def windows(score, judge=rewards_alone, *, prompts=6, rows=1, endless=False, remarks=dict, **missing_eos):
    asked = [Asked(number, f"prompt {number}", columns={"answer": number}) for number in range(prompts)]
    paired = judge is pairs
    made = Layout(
        rows, 64, SIZE, responses=2 if paired else K, paired=paired, share_prompt=True, mismatched=False, columns=("rollout_reward",),
        computed=(), token_columns=(),
    )  # fmt: skip
    speech = Speech(Prompts(asked, [(5, 6 + number) for number in range(prompts)], SIZE, 0), Sampler(endless), Speaker(), K)
    return Windows(speech, made, judge, Reward("mine", {}, Rule(score, remarks=remarks)), **missing_eos), speech


def by_answer(prompts, completions, metadata):
    """Ten times the number of the prompt, and the words of the answer."""
    return [10.0 * row["answer"] + len(completion.split()) for row, completion in zip(metadata, completions, strict=True)]


def test_a_reward_gets_the_texts_and_the_rows_of_the_prompts_and_stands_in_the_batch():
    made, speech = windows(by_answer)
    window = made.draw(None, [0, 1], step=0)
    for number in (0, 1):
        expected = [[10 * prompt + words for words in (1, 2, NEW)] for prompt in speech.prompts.of_batch(number)]
        assert window.arrays[number]["columns"]["rollout_reward"].tolist() == expected and window.arrays[number]["valid"].all()
    assert window.metrics["rollout/stopped"] == pytest.approx(2 / 3)
    assert window.metrics["rollout/tokens"] == pytest.approx((1 + 2 + NEW) / 3)
    assert window.metrics["rollout/reward_std"] > 0 and not window.lines


def test_windows_are_drawn_anew_and_a_window_again_is_the_same():
    made, _ = windows(by_answer)
    tokens = [made.draw(None, numbers, step=0).arrays[numbers[0]]["tokens"] for numbers in ([0, 1], [3, 4], [0, 1])]
    np.testing.assert_array_equal(tokens[0], tokens[2])
    assert (tokens[0] != tokens[1]).any()


def test_a_prompt_that_stands_in_a_window_twice_gets_other_samples_the_second_time():
    made, speech = windows(by_answer, prompts=SIZE)
    window = made.draw(None, [0, 1], step=0)
    assert len(set(speech.sampler.seeds)) == 2
    first, second = (sorted(window.arrays[number]["tokens"][window.arrays[number]["slots"] >= 0].tolist()) for number in (0, 1))
    assert first != second


def test_the_penalty_is_taken_off_samples_that_do_not_end_and_not_off_the_metric():
    plain, _ = windows(lambda prompts, completions, rows: [1.0] * len(rows))
    made, _ = windows(lambda prompts, completions, rows: [1.0] * len(rows), missing_eos_penalty=0.25)
    window = made.draw(None, [0], step=0)
    assert window.arrays[0]["columns"]["rollout_reward"].tolist() == [[1.0, 1.0, 0.75]] * SIZE
    limited, _ = windows(lambda prompts, completions, rows: [1.0] * len(rows), missing_eos_most=-1.0)
    assert limited.draw(None, [0], step=0).arrays[0]["columns"]["rollout_reward"].tolist() == [[1.0, 1.0, -1.0]] * SIZE
    assert window.metrics["rollout/reward"] == plain.draw(None, [0], step=0).metrics["rollout/reward"] == 1.0


def test_rewards_that_are_all_equal_are_told_once_and_nothing_is_trained():
    made, _ = windows(lambda prompts, completions, rows: [1.0] * len(rows), pairs)
    first, second = (made.draw(None, [number], step=number) for number in (0, 1))
    assert not first.arrays[0]["valid"].any() and first.metrics["rollout/ties"] == 1.0
    assert first.lines == ["step 0: no sample of the window is trained on: the rewards of a prompt's samples are all equal."]
    assert not second.lines


def test_a_process_whose_own_rows_rest_does_not_say_that_all_do(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)

    def equal_for(tied):
        return lambda prompts, completions, rows: [0.0 if row["answer"] == tied else float(i) for i, row in enumerate(rows)]

    _, speech = windows(by_answer)
    for process, prompt in enumerate(speech.prompts.of_batch(0)):  # one prompt for each, in a row of its own
        monkeypatch.setattr("jax.process_index", lambda process=process: process)
        made, _ = windows(equal_for(prompt), pairs, rows=2)
        window = made.draw(None, [0], step=0)
        assert not window.arrays[0]["valid"].any() and not window.lines


def test_rewards_that_are_missing_are_not_said_to_be_equal():
    def first_alone(prompts, completions, rows):
        return [1.0 if number % K == 0 else Fault("timeout", "it took more than 1 s.") for number in range(len(rows))]

    made, _ = windows(first_alone, pairs)
    window = made.draw(None, [0], step=0)
    assert "no sample of the window is trained on: the rewards of a prompt's samples are missing but one." in window.lines[-1]
    assert window.metrics["rollout/ties"] == 0


def test_groups_without_a_difference_are_told_and_a_penalty_is_one():
    def alike(prompts, completions, rows):
        return [1.0] * len(rows)

    lines = windows(alike)[0].draw(None, [0], step=3).lines
    assert lines == ["step 3: the rewards of a prompt's samples are all equal, so no sample of a prompt is better than another."]
    window = windows(alike, missing_eos_penalty=0.25)[0].draw(None, [0], step=3)
    assert not window.lines and window.metrics["rollout/ties"] == 0


def test_texts_that_never_end_are_told_once():
    made, _ = windows(by_answer, endless=True)
    first, second = (made.draw(None, [number], step=number) for number in (0, 1))
    assert first.lines[-1] == "step 0: every sample of the window goes on until max_new_tokens and never stops by itself."
    assert not second.lines and first.metrics["rollout/stopped"] == 0


def test_samples_without_a_reward_are_left_out_counted_by_the_reason_and_told_once():
    def late(prompts, completions, rows):
        return [Fault("timeout", "it took more than 1 s.") if number % K == 1 else 1.0 * number for number in range(len(rows))]

    made, _ = windows(late)
    first, second = (made.draw(None, [number], step=number) for number in (0, 1))
    assert first.arrays[0]["valid"].tolist() == [[True, False, True]] * SIZE
    assert first.metrics["rollout/faults/timeout"] == second.metrics["rollout/faults/timeout"] == SIZE
    assert "2 of 6 samples left out by timeout; first is the prompt 'prompt" in first.lines[0] and not second.lines
    assert first.metrics["rollout/reward"] == np.mean([0, 2, 3, 5])


def test_calls_that_failed_though_every_sample_has_a_reward_are_told_once_of_each_kind():
    remarks = {}
    made, _ = windows(by_answer, remarks=lambda: remarks)
    told = []
    for number, now in enumerate([{"timeout": "1 call"}, {"timeout": "2 calls"}, {"timeout": "2 calls", "died": "3 calls"}]):
        remarks |= now
        told.append(made.draw(None, [number], step=number).lines)
    assert told == [["reward 'mine': 1 call"], [], ["reward 'mine': 3 calls"]]


def test_a_window_without_any_reward_stops_the_run_and_names_the_reason():
    made, _ = windows(lambda prompts, completions, rows: [float("nan")] * len(rows))
    with pytest.raises(ValueError, match="none of the 6 samples of step 7 has a reward.*'mine': 6 of 6 samples left out by not_finite"):
        made.draw(None, [0], step=7)


class Saved:
    good = 3

    def wait(self):
        pass

    def newest_known_good(self):
        return None


@pytest.mark.parametrize(("kl", "pulls", "way"), [(0.6, ["objective.beta"], r"\(objective.beta\)"), (float("nan"), [], "Lower optimizer")])
def test_a_kl_beyond_its_limit_stops_the_run_and_names_the_checkpoint_that_is_kept_and_the_way_out(kl, pulls, way):
    saved = Saved()
    words = f"at step 6, more than train.max_kl=0.5; no checkpoint is of a policy within it.*{way}"
    with pytest.raises(FloatingPointError, match=words):
        guards.check_kl(kl, 6, most=0.5, saved=saved, learning_rate=0.1, pulls=pulls)
    assert saved.good == 3


@pytest.mark.parametrize(("kl", "most", "good"), [(0.4, 0.5, 6), (None, 0.5, 3), (9.0, None, 3)])
def test_a_kl_within_its_limit_makes_the_policy_a_good_one(kl, most, good):
    saved = Saved()
    guards.check_kl(kl, 6, most=most, saved=saved, learning_rate=0.1, pulls=[])
    assert saved.good == good

"""Every duration in steps, and what is said of those that do not fit together."""

import pytest
import tiny

from jaxalign.config import durations
from jaxalign.config.resolve import resolve
from jaxalign.data.rows import loader


@pytest.fixture(autouse=True)
def ten_steps_an_epoch(monkeypatch):
    monkeypatch.setattr(loader, "steps_per_epoch", lambda sets, **_: 10)
    monkeypatch.setattr(loader, "groups_per_row", lambda sets, **_: 2.5)


def lengths(train, **sections):
    cfg = tiny.get_config()
    cfg.train = train
    for section, values in sections.items():
        cfg[section] = {**cfg.get(section, {}), **values}
    return durations.durations(resolve(cfg), [])


@pytest.mark.parametrize(
    ("train", "total"),
    [
        (dict(total_steps=7), 7),
        (dict(total_epochs=1.5), 15),
        (dict(total_examples=41), 3),  # 8 rows of 2.5 prompts a step
    ],
)
def test_a_length_may_be_given_in_steps_epochs_or_examples(train, total):
    assert lengths(train).total == lengths(train).planned == total


def test_percents_are_of_the_planned_steps_and_an_extension_comes_after_them():
    made = lengths(dict(total_steps=40, extend_epochs=1, eval_every_percent=50))
    assert (made.total, made.planned, made.eval_every, made.warmup) == (50, 40, 20, 4)


def test_a_warm_up_longer_than_the_run_is_said():
    (note,) = lengths(dict(total_steps=8), optimizer=dict(warmup_steps=32)).notes
    assert note == "optimizer.warmup comes to 32 steps, the run has 8: the learning rate ends at 25% of its peak."
    assert lengths(dict(total_steps=8), optimizer=dict(warmup_steps=8)).notes == ()


def test_a_reference_that_would_never_move_and_a_run_without_steps_are_refused():
    with pytest.raises(ValueError, match="reference.every comes to 9 steps and the run has 8"):
        lengths(dict(total_steps=8), reference=dict(rule="hard", every_steps=9))
    with pytest.raises(ValueError, match="train.total comes to 0 steps"):
        lengths(dict(total_steps=0))

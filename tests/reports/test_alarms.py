"""Chosen answers that become less likely are told, whatever else improves."""

import math

import pytest

from jaxalign.reports import alarms, log, page
from jaxalign.reports.estimates import Estimate


def metrics(logps, *, reward=None, se=5.0, reward_se=0.1, where="", initial=""):
    found = {f"{where}logps/chosen": Estimate(logps, se, 200)}
    return found if reward is None else found | {f"{where}{initial}rewards/chosen": Estimate(reward, reward_se, 200)}


@pytest.mark.parametrize("where", ["", "helpful/"])
@pytest.mark.parametrize("initial", ["", "initial/"])
def test_against_the_start_the_error_is_that_of_the_change(where, initial):
    before, after = (metrics(*values, where=where, initial=initial) for values in ((-48.0,), (-52.0,)))
    assert not alarms.falling(before, after)  # four nats, and each end is known to five
    before, after = (metrics(logps, reward=reward, where=where, initial=initial) for logps, reward in ((-48.0, 0.0), (-52.0, -0.4)))
    (sentence,) = alarms.falling(before, after)
    assert not alarms.falling(before, metrics(-49.0, reward=-0.1, where=where, initial=initial))  # one error below
    assert "-48.0 -> -52.0" in sentence and ("of helpful are less" in sentence) == bool(where)


def test_a_reward_that_is_no_change_does_not_decide():
    simpo = (metrics(logps, reward=reward) for logps, reward in ((-48.0, -2.0), (-50.0, -2.1)))  # beta times a mean log-prob
    assert not alarms.falling(*simpo)


@pytest.mark.parametrize(("last", "count"), [(-40.0, 0), (-60.0, 0), (-63.0, 1)])
def test_without_a_reference_the_errors_of_both_ends_add_up(last, count):
    assert len(alarms.falling(metrics(-48.0), metrics(last))) == count


def test_where_an_error_is_not_known_nothing_is_told():
    assert not alarms.falling(metrics(-48.0, se=math.nan), metrics(-99.0, se=math.nan)) and not alarms.falling({}, metrics(-99.0))


def test_the_log_tells_it_once_and_the_page_shows_it(tmp_path, capsys):
    options = {"total_steps": 9, "wandb": False, "name": "x", "config": {}, "quiet": False}
    first, last = metrics(-48.0, reward=0.0), metrics(-52.0, reward=-0.4)
    run = log.RunLog(tmp_path, start_step=0, **options)
    for step, estimates in enumerate((first, last, last)):
        run.held_out(step, estimates)
    run.close()
    run = log.RunLog(tmp_path, start_step=2, **options)  # a run that is continued knows how it began
    run.held_out(3, last)
    run.close()
    assert capsys.readouterr().err.count("ALARM: the chosen answers are less likely") == 2
    facts = {"data": {}, "settings": {}, "samples": [], "run": {"seconds": 1.0, "starts": 1, "command": "x", "date": "today"}}
    loss = {"loss": Estimate(1.0, 0.1, 200)}
    assert "**ALARM: " in "\n".join(page._results(page.Stage("", facts, first | loss, last | loss, "")))


def test_answers_come_last_among_the_first_numbers_and_a_run_with_them_alone_has_first_numbers():
    names = ["generate/kl", "generate/win_rate", "kl", "loss", "generate/tokens", "initial/kl"]
    assert page.headline(names) == ["loss", "initial/kl", "generate/win_rate", "generate/kl"]


def test_beside_an_accuracy_stands_what_length_alone_would_reach():
    names = ["a/accuracy", "a/ranking/length", "initial/accuracy", "accuracy", "ranking/length", "initial/ranking/length", "ranking/logps"]
    assert page.headline(names) == ["a/accuracy", "a/ranking/length", "initial/accuracy", "ranking/length"]
    assert page.headline(["multiple_choice/accuracy"]) == ["multiple_choice/accuracy"]

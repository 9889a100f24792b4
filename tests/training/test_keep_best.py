"""Which checkpoints are kept: the newest, and the best by a held-out metric that is a number."""

import jax.numpy as jnp
from ml_collections import ConfigDict
import pytest

from jaxalign.config.durations import Durations
from jaxalign.config.sets import check_best
from jaxalign.training import guards, runs
from jaxalign.training.checkpoint import Checkpoints
from jaxalign.types import TrainState

NAN, INF = float("nan"), float("inf")


def save_all(workdir, losses, *, good=None, **options):
    """`good`: step -> what `Checkpoints.good` becomes before the save of that step."""
    saved = Checkpoints(workdir, **options)
    for step, loss in enumerate(losses, 1):
        saved.good = (good or {}).get(step, saved.good)
        state = dict.fromkeys(TrainState.__dataclass_fields__) | {"trainable": {"w": jnp.full((4,), float(step))}, "step": jnp.int32(step)}
        metrics = None if loss is None else {"loss": loss} if not isinstance(loss, dict) else loss
        saved.save(TrainState(**state), step=step, run={"config": {"train": {"best_metric": "loss"}}}, metrics=metrics)
    saved.close()
    return runs.steps(workdir)


@pytest.mark.parametrize(("losses", "kept"), [
    ([1.0, NAN, 2.0, 5.0, 6.0], [1, 5]),
    ([NAN, NAN, 2.0, NAN], [3, 4]),
    ([NAN, NAN], [2]),
    ([3.0, None, 2.0, None], [3, 4]),
    ([3.0, -INF, INF], [1, 3]),
    ([3.0, {"kl": 0.0}, 4.0], [1, 3]),
    ([2.0, 2.0, 2.5], [2, 3]),  # of equal ones the newer
])  # fmt: skip
def test_what_is_no_number_is_never_best_and_never_deletes_the_best(tmp_path, losses, kept):
    assert save_all(tmp_path, losses, keep_last=1, keep_best=1) == kept


def test_without_a_count_of_the_best_the_newest_are_kept(tmp_path):
    assert save_all(tmp_path, [1.0, 2.0, 3.0, 4.0], keep_last=2) == [3, 4]


def test_the_newest_that_is_known_to_be_good_is_kept_beside_the_newest_also_over_a_restart(tmp_path):
    assert save_all(tmp_path, [1.0] * 6, good={1: 0, 4: 3}, keep_last=1) == [3, 6]
    again = Checkpoints(tmp_path, keep_last=1)
    assert again.begin() == 6 and again.good == 3 and again.newest_known_good() == 3
    with pytest.raises(FloatingPointError, match=r"; the newest checkpoint of a policy within it is step 3\."):
        guards.check_kl(9.0, 6, most=0.5, saved=again, learning_rate=0.1, pulls=[])


def test_two_best_by_a_metric_of_which_more_is_better(tmp_path):
    assert save_all(tmp_path, [0.0, 5.0, NAN, 3.0, 1.0], keep_last=1, keep_best=2, metric="-loss") == [2, 4, 5]


def test_a_record_that_cannot_be_read_deletes_nothing(tmp_path):
    save_all(tmp_path, [3.0, 4.0], keep_last=2, keep_best=1)
    (tmp_path / "checkpoints" / "1" / "run" / "metadata").write_text("{")
    saved = Checkpoints(tmp_path, keep_last=1, keep_best=1)
    assert saved._kept() == {1, 2}


def test_the_best_step_of_a_run_has_a_name(tmp_path):
    save_all(tmp_path, [3.0, 1.0, 2.0], keep_last=3)
    assert runs.parse_step("best", tmp_path) == 2 and runs.parse_step("3", tmp_path) == 3 and runs.parse_step(None, tmp_path) is None
    with pytest.raises(ValueError, match="after @ comes the step of a checkpoint, or best"):
        runs.parse_step("worst", tmp_path)


def test_the_best_is_the_best_of_those_that_are_as_they_were_written(tmp_path):
    save_all(tmp_path, [3.0, 1.0, 2.0, 4.0, 5.0], keep_last=5)
    (tmp_path / "checkpoints" / "5" / "run" / "metadata").write_text("")
    better = tmp_path / "checkpoints" / "4" / "run" / "metadata"
    better.write_text(better.read_text().replace("4.0", "0.5"))
    (tmp_path / "checkpoints" / "2" / "trainable" / "_METADATA").write_text("")
    told = []
    assert runs.parse_step("best", tmp_path, tell=told.append) == 3
    assert [line.split(" is damaged")[0] for line in told] == [f"the checkpoint of step {step}" for step in (4, 5, 2)]
    for step in (1, 3):
        (tmp_path / "checkpoints" / str(step) / "run" / "metadata").unlink()
    with pytest.raises(runs.CheckpointError, match="every checkpoint in"):
        runs.parse_step("best", tmp_path)


def test_a_record_that_was_changed_deletes_nothing(tmp_path):
    save_all(tmp_path, [3.0, 4.0], keep_last=2, keep_best=1)
    record = tmp_path / "checkpoints" / "1" / "run" / "metadata"
    record.write_text(record.read_text().replace("3.0", "5.0"))
    assert Checkpoints(tmp_path, keep_last=1, keep_best=1)._kept() == {1, 2}


def test_no_best_where_nothing_was_evaluated(tmp_path):
    save_all(tmp_path, [None, NAN], keep_last=3)
    with pytest.raises(ValueError, match=r"none of its checkpoints \[1, 2\] was evaluated by loss"):
        runs.parse_step("best", tmp_path)


@pytest.mark.parametrize(("evaluated", "saved", "total", "meets"), [
    (2, 4, 10, True), (3, 4, 12, False), (3, 4, 13, True), (0, 4, 12, False), (5, 12, 12, True), (5, 0, 12, True),
])  # fmt: skip
def test_evaluations_and_saves_that_never_meet_are_refused_before_the_run(evaluated, saved, total, meets):
    cfg = ConfigDict(dict(train=dict(keep_best=1, best_metric="loss")))
    lengths = Durations(total, total, 0, 1, evaluated, saved)
    if meets:
        check_best(cfg, lengths, lambda: {"loss"})
    else:
        with pytest.raises(ValueError, match="keep_best=1.*make train.save_every a multiple of train.eval_every"):
            check_best(cfg, lengths, lambda: {"loss"})


@pytest.mark.parametrize(("metric", "keep_best", "words"), [
    ("acuracy", 1, r"'acuracy' is no held-out metric of this run \(did you mean accuracy\?\); there are accuracy, loss"),
    ("-test/acuracy", 0, "no held-out metric of this run"),
])  # fmt: skip
def test_a_metric_that_no_evaluation_will_give_is_refused_before_the_run(metric, keep_best, words):
    cfg = ConfigDict(dict(train=dict(keep_best=keep_best, best_metric=metric)))
    with pytest.raises(ValueError, match=words):
        check_best(cfg, Durations(10, 10, 0, 1, 2, 4), lambda: {"loss", "accuracy"})


def test_the_metrics_are_not_asked_for_where_none_is_chosen():
    asked = []

    def names():
        asked.append("names")
        return {"loss"}

    for keep_best, count in ((0, 0), (1, 1)):
        check_best(ConfigDict(dict(train=dict(keep_best=keep_best, best_metric="loss"))), Durations(9, 9, 0, 1, 2, 4), names)
        assert len(asked) == count

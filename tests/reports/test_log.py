"""What a run writes: lines of metrics with errors and counts, TensorBoard files only where there is something to show."""

import json
import math

import pytest

from jaxalign.reports import log
from jaxalign.reports.estimates import Estimate


@pytest.fixture
def opened(tmp_path):
    """start_step -> an open log in tmp_path; all are closed at the end."""
    logs = []

    def start(step=0):
        logs.append(log.RunLog(tmp_path, start_step=step, total_steps=10, wandb=False, name="run", config={}, quiet=False))
        return logs[-1]

    yield start
    for one in logs:
        one.close()


def test_a_run_that_is_opened_and_writes_nothing_leaves_no_tensorboard_file(opened, tmp_path):
    opened().flush()
    assert not (tmp_path / "tensorboard").exists()


def test_a_run_that_is_opened_again_adds_one_file_for_what_it_writes(opened, tmp_path):
    for step in (0, 5):
        run = opened(step)
        run.metrics("train", step, {"loss": 1.0})
        run.flush()
    opened(6).flush()
    assert 1 <= len(list((tmp_path / "tensorboard").iterdir())) <= 2


@pytest.mark.parametrize(("start", "kept"), [(0, []), (2, [("eval", 0), ("train", 0), ("train", 1), ("eval", 2)])])
def test_what_a_start_will_write_again_is_dropped(opened, tmp_path, start, kept):
    run = opened()
    for step in range(4):
        if step % 2 == 0:
            run.held_out(step, {"loss": Estimate(0.5, 0.1, 20)})
        run.metrics("train", step, {"loss": 1.0})
    run.flush()
    opened(start).flush()
    lines = map(json.loads, (tmp_path / log.METRICS).read_text().splitlines())
    assert [(line["split"], line["step"]) for line in lines] == kept


def test_a_held_out_line_has_values_and_beside_them_errors_and_counts(opened, tmp_path):
    run = opened()
    run.held_out(5, {"loss": Estimate(0.5, 0.1, 20), "accuracy": Estimate(math.nan, math.nan, 0)})
    run.flush()
    (line,) = map(json.loads, (tmp_path / log.METRICS).read_text().splitlines())
    assert line == {
        "step": 5, "split": "eval", "accuracy": None, "loss": 0.5, "se": {"accuracy": None, "loss": 0.1}, "n": {"accuracy": 0, "loss": 20},
    }  # fmt: skip
    assert log.read_metrics(tmp_path, "eval") == [{"step": 5, "split": "eval", "accuracy": None, "loss": 0.5}]
    ((step, estimates),) = log.read_estimates(tmp_path)
    assert step == 5 and estimates["loss"] == Estimate(0.5, 0.1, 20) and estimates["accuracy"].n == 0


def test_lines_without_errors_are_read_too(tmp_path):
    (tmp_path / log.METRICS).write_text(json.dumps({"step": 1, "split": "eval", "loss": 0.5}) + "\n")
    ((_, estimates),) = log.read_estimates(tmp_path)
    assert estimates["loss"].value == 0.5 and math.isnan(estimates["loss"].se) and estimates["loss"].n == 0


def test_held_out_metrics_that_are_not_finite_are_named(opened, capsys):
    opened().held_out(5, {"loss": Estimate(math.inf, math.nan, 20), "accuracy": Estimate(math.nan, math.nan, 0)})
    assert "step 5: the held-out metrics loss are not finite" in " ".join(capsys.readouterr().err.split())


WHOLE = (b"{", b"[]", b'"\xff"', b'{"step": "a", "split": "eval"}', b'{"step": 2}')
START = b'{"step": 2, "split": "eval", '
VALUES = (b'"loss": "x"}', b'"se": 3}', b'"n": {"loss": null}}')


@pytest.mark.parametrize("damaged", [*WHOLE, *(START + value for value in VALUES)])
def test_a_damaged_line_is_counted_and_the_others_are_read_and_kept(opened, tmp_path, caplog, damaged):
    lines = [json.dumps({"step": step, "split": "eval", "loss": 0.5}).encode() for step in (1, 3)]
    (tmp_path / log.METRICS).write_bytes(b"\n".join([lines[0], damaged, lines[1]]) + b"\n")
    assert [step for step, _ in log.read_estimates(tmp_path)] == [1, 3]
    assert f"{tmp_path / log.METRICS}: 1 of 3 lines are damaged, the first is line 2" in caplog.text
    opened(3).flush()
    assert (tmp_path / log.METRICS).read_bytes().splitlines() == lines


def test_a_last_line_that_the_end_of_a_process_cut_short_is_passed_over_without_a_word(tmp_path, caplog):
    (tmp_path / log.METRICS).write_text('{"step": 1, "split": "eval", "loss": 0.5}\n{"step": 2, "spl')
    assert [step for step, _ in log.read_estimates(tmp_path)] == [1] and not caplog.records

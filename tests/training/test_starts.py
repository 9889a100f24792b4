"""Starts from one and the same checkpoint are counted, and the last of too many is not followed by another."""

from pathlib import Path

import pytest

from jaxalign import train
from jaxalign.hosts import watch
from jaxalign.training import starts

OPTIMIZED = True
CONFIG = str(Path(__file__).parents[1] / "tiny.py")


@pytest.mark.parametrize(
    ("before", "step", "last"),
    [
        ("", 0, False),
        ("0\n0\n", 0, False),
        ("0\n0\n0\n", 0, True),
        ("30\n" * 9, 30, True),
        ("30\n30\n30\n", 40, False),  # a newer checkpoint
        ("30\n30\n40\n30\n", 30, False),  # it was damaged: what came after it need not come again
    ],
)
def test_only_starts_in_a_row_from_the_same_step_count(tmp_path, before, step, last):
    (tmp_path / starts.FILE).write_text(before)
    told = starts.futile(tmp_path, step, name="sft")
    assert bool(told) == last and (f"all from step {step} and none has saved a newer checkpoint" in told) == last
    assert (tmp_path / starts.FILE).read_text() == before + f"{step}\n"


def test_a_start_is_futile_until_it_has_saved_and_the_first_ones_are_not(tmp_path, monkeypatch):
    told, stepped = [], watch.stepped

    def note(futile=""):
        told.append(bool(futile))
        stepped(futile)

    monkeypatch.setattr(watch, "stepped", note)
    run = tmp_path / "run"
    arguments = ["--config", f"{CONFIG}:sft", "--workdir", str(run), f"--config.data.prepared_dir={tmp_path / 'prepared'}"]
    arguments += [f"--config.train.{name}=1" for name in ("log_every_steps", "eval_every_steps")]
    arguments += ["--config.train.save_every_steps=2", "--config.train.total_steps=4"]
    run.mkdir()
    (run / starts.FILE).write_text("0\n" * (starts.MOST - 1))
    assert train.main(arguments) == 0
    assert told == [True, True, False, False]
    assert train.main(["--config", f"{CONFIG}:sft", "--workdir", str(tmp_path / "other"), *arguments[4:]]) == 0
    assert not any(told[4:])

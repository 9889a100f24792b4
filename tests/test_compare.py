"""Comparing runs: what stands in the table, what is drawn, and which folders are refused."""

import json

import pytest

from jaxalign import compare


def write(run, stage, lines):
    """A stage's metrics.jsonl with held-out lines, and one training line that must not be read."""
    folder = run / stage
    folder.mkdir(parents=True)
    records = [{"step": 0, "split": "train", "loss": 9.0, "kl": 9.0}, *({"split": "eval", **line} for line in lines)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def runs(tmp_path):
    """Two runs with a frozen and a moving reference; the first held-out accuracy of both is undefined."""
    for number, last in enumerate((0.5, 0.75)):
        run = tmp_path / f"run_{number}"
        write(run, "dpo", [{"step": 0, "loss": 1.0, "kl": 0.0, "acc": None}, {"step": 4, "loss": 0.5, "kl": 2.0, "acc": last}])
        moving = {"loss": 1.0, "kl": 0.0, "acc": 0.25, "initial/loss": 1.0, "initial/acc": last}
        moving = [{"step": step, "initial/kl": step / 2, **moving} for step in (0, 8)]
        write(run, "tr_dpo", moving)
    return [str(tmp_path / f"run_{number}") for number in (0, 1)]


def test_the_table_has_mean_and_spread_of_the_last_held_out_values(runs, tmp_path, capsys):
    assert compare.main(["--runs", *runs, "--metrics", "acc", "initial/acc", "initial/kl", "--out", str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert lines[0] == "| stage | acc | initial/acc | initial/kl |"
    assert lines[2] == "| dpo | 0.625 (0.5 to 0.75) | 0.625 (0.5 to 0.75) | 2 (2 to 2) |"
    assert lines[3] == "| tr_dpo | 0.25 (0.25 to 0.25) | 0.625 (0.5 to 0.75) | 4 (4 to 4) |"
    assert capsys.readouterr().out.splitlines()[:4] == lines
    assert not (tmp_path / "out" / "trajectories.png").exists()


def test_curves_and_trajectories_are_drawn(runs, tmp_path):
    out = tmp_path / "out"
    assert compare.main(["--runs", *runs, "--metrics", "acc", "kl", "--out", str(out), "--x", "initial/kl", "--y", "initial/acc"]) == 0
    for name in ("curves.png", "trajectories.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_stages_are_chosen_and_ordered(runs, tmp_path):
    assert compare.main(["--runs", *runs, "--stages", "tr_dpo", "dpo", "--metrics", "kl", "--out", str(tmp_path)]) == 0
    assert [line.split()[1] for line in (tmp_path / "table.md").read_text().splitlines()[2:]] == ["tr_dpo", "dpo"]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("kl", 2.0),
        ("helpful/kl", 1.0),
        ("initial/acc", 0.5),  # of one set against the initial reference, of the other as it is
        ("helpful/initial/acc", 0.25),
        ("harmless/initial/acc", 0.75),
        ("other", None),
    ],
)
def test_metrics_of_several_held_out_sets_are_averaged_unless_one_is_named(metric, expected):
    line = {"step": 1, "helpful/loss": 1.0, "helpful/kl": 1.0, "helpful/acc": 0.0, "helpful/initial/acc": 0.25, "helpful/initial/loss": 2.0}
    line |= {"harmless/loss": 1.0, "harmless/kl": 3.0, "harmless/acc": 0.75}
    assert compare.value(line, metric) == expected


def test_a_metric_that_only_some_stages_have_is_a_dash_elsewhere(runs, tmp_path):
    for run in runs:
        write(tmp_path / run, "sft", [{"step": 2, "loss": 1.5}])
    assert compare.main(["--runs", *runs, "--metrics", "kl", "--out", str(tmp_path / "out")]) == 0
    assert "| sft | - |" in (tmp_path / "out" / "table.md").read_text()


def test_an_unknown_metric_is_refused_with_those_there_are(runs, tmp_path, capsys):
    assert compare.main(["--runs", *runs, "--metrics", "ack", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "'ack'" in said and "acc, initial/acc" in said and "step" not in said.partition("there are")[2]
    assert not (tmp_path / "out").exists()


def test_a_folder_without_stages_is_refused(tmp_path, capsys):
    assert compare.main(["--runs", str(tmp_path), "--metrics", "kl", "--out", str(tmp_path / "out")]) == 1
    assert f"{tmp_path} has no stages" in capsys.readouterr().err


def test_runs_with_other_stages_are_refused(runs, tmp_path, capsys):
    write(tmp_path / runs[1], "ipo", [{"step": 2, "loss": 1.5}])
    assert compare.main(["--runs", *runs, "--metrics", "kl", "--out", str(tmp_path / "out")]) == 1
    assert "run_1 has the stages dpo, ipo, tr_dpo, not dpo, tr_dpo" in capsys.readouterr().err
    assert compare.main(["--runs", *runs, "--stages", "dpo", "--metrics", "kl", "--out", str(tmp_path / "out")]) == 0


def test_a_run_that_is_not_finished_is_refused(runs, tmp_path, capsys):
    write(tmp_path / "run_2", "dpo", [{"step": 0, "loss": 1.0, "kl": 0.0}])
    given = ["--runs", *runs, str(tmp_path / "run_2"), "--stages", "dpo", "--metrics", "kl", "--out", str(tmp_path / "out")]
    assert compare.main(given) == 1
    assert "was evaluated at [0], of" in capsys.readouterr().err


def test_x_without_y_is_refused(runs, tmp_path, capsys):
    assert compare.main(["--runs", *runs, "--metrics", "kl", "--x", "kl", "--out", str(tmp_path / "out")]) == 1
    assert "--x and --y go together" in capsys.readouterr().err

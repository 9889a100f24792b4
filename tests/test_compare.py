"""Comparing runs: what stands in the table, what is drawn, what is grouped, and what is missing."""

import json
import math

import pytest

from jaxalign import compare
from jaxalign.reports import comparison
from jaxalign.reports.estimates import MISSING, Estimate


def write(folder, lines, **settings):
    """A metrics.jsonl with held-out lines, each value with an error of 0.1 over 20 prompts, and a training line that must not be read."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [{"step": 0, "split": "train", "loss": 9.0, "kl": 9.0}]
    for line in lines:
        names = [name for name in line if name != "step"]
        records.append({"split": "eval", **line, "se": dict.fromkeys(names, 0.1), "n": dict.fromkeys(names, 20)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if settings:
        (folder / "summary.json").write_text(json.dumps({"settings": settings}))


def run(*arguments):
    return compare.main([str(argument) for argument in arguments])


@pytest.fixture
def runs(tmp_path):
    """Two runs with a frozen and a moving reference; the first held-out accuracy of both is undefined."""
    for number, last in enumerate((0.5, 0.75)):
        folder = tmp_path / f"run_{number}"
        write(folder / "dpo", [{"step": 0, "loss": 1.0, "kl": 0.0, "acc": None}, {"step": 4, "loss": 0.5, "kl": 2.0, "acc": last}])
        moving = {"loss": 1.0, "kl": 0.0, "acc": 0.25, "initial/loss": 1.0, "initial/acc": last}
        write(folder / "tr_dpo", [{"step": step, "initial/kl": step / 2, **moving} for step in (0, 8)])
    return [tmp_path / f"run_{number}" for number in (0, 1)]


@pytest.fixture
def seeds(tmp_path):
    """Three seeds of one configuration and two of another, none with stages."""
    for name, values in (("dpo", (0.6, 0.7, 0.8)), ("kto", (0.5, 0.5))):
        for seed, accuracy in enumerate(values):
            lines = [{"step": 0, "accuracy": 0.5, "loss": 1.0}, {"step": 9, "accuracy": accuracy, "loss": 0.5}]
            write(tmp_path / f"{name}_{seed}", lines, objective=name, seed=str(seed))
    return sorted(path for path in tmp_path.iterdir())


def test_the_table_has_mean_and_spread_of_the_last_held_out_values(runs, tmp_path, capsys):
    assert run("--runs", *runs, "--metrics", "acc", "initial/acc", "initial/kl", "--out", tmp_path / "out") == 0
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert lines[0] == "| run | seeds | acc | initial/acc | initial/kl |"
    assert lines[2] == "| dpo | 2 | 0.625 (0.5 to 0.75) | 0.625 (0.5 to 0.75) | 2 (2 to 2) |"
    assert lines[3] == "| tr_dpo | 2 | 0.25 (0.25 to 0.25) | 0.625 (0.5 to 0.75) | 4 (4 to 4) |"
    assert capsys.readouterr().out.splitlines()[:4] == lines[:4]
    assert not (tmp_path / "out" / "trajectories.png").exists()


def test_runs_without_stages_are_grouped_by_name_and_the_headline_is_compared(seeds, capsys):
    assert run("--runs", *seeds) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| run | seeds | accuracy | loss |"
    assert lines[2] == "| dpo | 3 | 0.7 (0.6 to 0.8) | 0.5 (0.5 to 0.5) |"
    assert lines[3] == "| kto | 2 | 0.5 (0.5 to 0.5) | 0.5 (0.5 to 0.5) |"
    assert "- kto has 2 of 3 seeds." in lines


def test_the_interval_over_seeds_is_students_and_the_error_over_prompts_the_mean(seeds, capsys):
    assert run("--runs", *seeds[:3], "--metrics", "accuracy") == 0
    half = 4.302653 * 0.1 / math.sqrt(3)  # t of 2 degrees of freedom at 97.5 %; the standard deviation of 0.6, 0.7, 0.8 is 0.1
    assert f"| dpo | accuracy | 0.7 | {0.7 - half:.4g} to {0.7 + half:.4g} | 0.1 | 20 |" in capsys.readouterr().out.splitlines()


def test_runs_whose_settings_differ_in_more_than_the_seed_are_not_taken_for_seeds(tmp_path, capsys):
    for rate in (3, 5):
        write(tmp_path / f"rate_{rate}", [{"step": 1, "loss": 1.0}], optimizer=f"learning_rate {rate}", seed="0")
    assert run("--runs", *sorted(tmp_path.iterdir())) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[2:4]] == ["rate_3", "rate_5"]


def test_runs_of_one_name_and_other_settings_are_told_apart_by_the_folders_above(tmp_path, capsys):
    for place, rate in (("a", 3), ("b", 5)):
        write(tmp_path / place / "dpo", [{"step": 1, "loss": 1.0}], optimizer=f"learning_rate {rate}", seed="0")
    assert run("--runs", tmp_path / "a" / "dpo", tmp_path / "b" / "dpo") == 0
    assert [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines()[2:4]] == [[" a/dpo ", " 1 "], [" b/dpo ", " 1 "]]


def test_a_run_named_twice_and_a_seed_run_twice_are_no_further_seeds(tmp_path, capsys):
    for number, seed in enumerate("010"):
        write(tmp_path / f"dpo_{number}", [{"step": 1, "loss": 1.0}], objective="dpo", seed=seed)
    folders = [tmp_path / f"dpo_{number}" for number in range(3)]
    assert run("--runs", *folders, tmp_path / "x" / ".." / "dpo_1", "--metrics", "loss") == 0
    out = capsys.readouterr().out
    assert "| dpo | 2 | 1 (1 to 1) |" in out and "- dpo_2 has the settings and the seed of dpo_0; it is left out." in out
    assert f"- {folders[1]} is named 2 times; it counts once." in out


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": 3}', "\xff"])
def test_damaged_files_of_a_run_are_named_and_passed_over(seeds, content, capsys, caplog):
    (seeds[0] / "summary.json").write_bytes(content.encode("latin1"))
    with open(seeds[0] / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "split": "ev')
    assert run("--runs", *seeds, "--metrics", "accuracy") == 0
    assert "| dpo | 3 | 0.7 (0.6 to 0.8) |" in capsys.readouterr().out
    assert str(seeds[0] / "summary.json") in caplog.text


def test_runs_with_stages_stand_beside_runs_without(runs, seeds, capsys):
    assert run("--runs", *runs, *seeds, "--metrics", "loss") == 0
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:6]]
    assert rows == ["dpo", "kto", "run/dpo", "run/tr_dpo"]


def test_curves_and_trajectories_are_drawn(runs, tmp_path):
    out = tmp_path / "out"
    assert run("--runs", *runs, "--metrics", "acc", "kl", "--out", out, "--x", "initial/kl", "--y", "initial/acc") == 0
    for name in ("curves.png", "trajectories.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_stages_are_chosen_and_ordered(runs, capsys):
    assert run("--runs", *runs, "--stages", "tr_dpo", "dpo", "--metrics", "kl") == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[2:4]] == ["tr_dpo", "dpo"]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("kl", 2.0),
        ("helpful/kl", 1.0),
        ("initial/acc", 0.5),  # of one set against the initial reference, of the other as it is
        ("helpful/initial/acc", 0.25),
        ("harmless/initial/acc", 0.75),
    ],
)
def test_metrics_of_several_held_out_sets_are_averaged_unless_one_is_named(metric, expected):
    values = {"helpful/loss": 1.0, "helpful/kl": 1.0, "helpful/acc": 0.0, "helpful/initial/acc": 0.25, "helpful/initial/loss": 2.0}
    values |= {"harmless/loss": 1.0, "harmless/kl": 3.0, "harmless/acc": 0.75}
    found = comparison.value({name: Estimate(one, 0.3, 10) for name, one in values.items()}, metric)
    single = metric.startswith("h")
    assert found == Estimate(expected, pytest.approx(0.3 if single else 0.3 * 2**0.5 / 2), 10 if single else 20)


def test_a_metric_that_is_not_there_is_missing():
    assert comparison.value({"loss": Estimate(1.0, 0.1, 5)}, "kl") is MISSING


def test_a_metric_that_only_some_stages_have_is_a_dash_elsewhere(runs, capsys):
    for folder in runs:
        write(folder / "sft", [{"step": 2, "loss": 1.5}])
    assert run("--runs", *runs, "--metrics", "kl") == 0
    assert "| sft | 0 | - |" in capsys.readouterr().out


def test_an_unknown_metric_is_refused_with_those_there_are(runs, tmp_path, capsys):
    assert run("--runs", *runs, "--metrics", "ack", "--out", tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert "'ack'" in message and "acc, initial/acc" in message and "step" not in message.partition("there are")[2]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert run("--runs", tmp_path, "--metrics", "kl") == 1
    assert f"{tmp_path} is no run" in capsys.readouterr().err


def test_what_a_run_lacks_is_named_and_the_others_are_compared(runs, tmp_path, capsys):
    write(runs[1] / "ipo", [{"step": 2, "loss": 1.5}])
    write(tmp_path / "run_2" / "dpo", [{"step": 0, "loss": 1.0, "kl": 0.0, "acc": None}])
    write(tmp_path / "run_2" / "tr_dpo", [])
    assert run("--runs", *runs, tmp_path / "run_2", "--stages", "dpo", "ipo", "tr_dpo", "--metrics", "loss") == 0
    text = capsys.readouterr().out
    assert "| dpo | 2 | 0.5 (0.5 to 0.5) |" in text and "| ipo | 1 | 1.5 |" in text
    for sentence in (
        "run_0 has no stage ipo.",
        "run_2/tr_dpo was never evaluated.",
        "dpo: run_2 was evaluated up to step 0 of 4; it is left out.",
        "ipo has 1 of 3 seeds.",
    ):
        assert f"- {sentence}" in text


def test_a_run_without_a_value_is_no_seed_of_the_mean_and_is_named(tmp_path, capsys):
    for seed, accuracy in enumerate((0.5, 0.75, None)):
        lines = [{"step": 0, "accuracy": 0.5, "loss": 1.0}, {"step": 9, "accuracy": accuracy, "loss": 0.5}]
        write(tmp_path / f"dpo_{seed}", lines, objective="dpo", seed=str(seed))
    folders = sorted(tmp_path.iterdir())
    assert run("--runs", *folders, "--metrics", "accuracy") == 0
    out = capsys.readouterr().out
    assert "| dpo | 2 | 0.625 (0.5 to 0.75) |" in out and "- dpo: dpo_2 has no accuracy at the end; the mean is of the others." in out
    assert run("--runs", *folders, "--metrics", "accuracy", "loss") == 0
    assert "| dpo | 3 | 0.625 (0.5 to 0.75), 2 of 3 seeds | 0.5 (0.5 to 0.5) |" in capsys.readouterr().out


def test_a_run_that_is_left_out_of_the_table_is_not_in_the_curves(tmp_path):
    for seed, last in enumerate((8, 8, 4)):
        lines = [{"step": step, "loss": 1.0 + seed} for step in (0, 4, 8) if step <= last]
        write(tmp_path / f"dpo_{seed}", lines, objective="dpo", seed=str(seed))
    (row,), missing = comparison.read(sorted(tmp_path.iterdir()))
    assert missing == ["dpo: dpo_2 was evaluated up to step 4 of 8; it is left out."]
    assert list(comparison.points(row, ["loss"])) == [(step, [[1.0, 2.0]]) for step in (0, 4, 8)]


@pytest.mark.parametrize(("flags", "message"), [(["--x", "kl"], "--x and --y go together"), (["--x", "kl", "--y", "acc"], "with --out")])
def test_axes_without_what_they_need_are_refused(runs, capsys, flags, message):
    assert run("--runs", *runs, "--metrics", "kl", *flags) == 1
    assert message in capsys.readouterr().err

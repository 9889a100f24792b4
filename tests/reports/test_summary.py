"""The page of a run: what stands on it, on one page for all stages, and what is drawn."""

import json

from ml_collections import ConfigDict
import numpy as np
import pytest

from jaxalign.config import describe
from jaxalign.reports import page, summary, wording
from jaxalign.reports.estimates import Estimate

RUN = {"start_step": 0, "starts": 1, "seconds": 63.4, "command": "python -m jaxalign.train --config x.py", "date": "2026-01-02"}
MACHINE = {"devices": "2 x cpu", "peak memory": "1.00 GiB", "versions": "jax 0"}
SET = {
    "source": "pairs.jsonl", "format": "paired", "read": 1200, "kept": 1000, "rules": ["dropped 200 by too_long"],
    "prompts": 1000, "pairs": 990, "tokens": 50_000, "fill": 0.9,
}  # fmt: skip
SAMPLE = {
    "prompt": "How are you?",
    "responses": [
        {"text": "Fine|well\nthank you", "what": "chosen", "before": -10.0, "after": -12.5},
        {"text": "No.", "what": "rejected", "before": None, "after": None},
    ],
}


def facts(**changes):
    whole = {"name": "run", "settings": {"objective": "dpo, beta 0.1", "seed": "0"}, "data": {"training": SET}, "samples": [SAMPLE]}
    return whole | {"run": {**RUN, **MACHINE}} | changes


def write_metrics(folder, *, names=("accuracy", "loss", "rewards/margins"), se=0.05):
    """Ten steps, evaluated at 0 and 10: values 0.5, then 0.625."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"step": step, "split": "train", "loss": 1 / (1 + step), "accuracy": 0.5} for step in range(10)]
    for step, value in ((0, 0.5), (10, 0.625)):
        errors = {"se": dict.fromkeys(names, se), "n": dict.fromkeys(names, 214)}
        lines.append({"step": step, "split": "eval", **dict.fromkeys(names, value), **errors})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def text(tmp_path):
    write_metrics(tmp_path)
    summary.write(tmp_path, facts())
    return (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "| `accuracy` | 0.500 ± 0.050 | 0.625 ± 0.050 | 214 |",
        "| training | pairs.jsonl (paired) | 1,000 of 1,200 | dropped 200 by too_long | 1,000 | 990 | 50,000 | 90.0% |",
        "| objective | dpo, beta 0.1 |",
        "| seed | 0 |",
        "python -m jaxalign.train --config x.py",
        "- time: 63 s",
        "- versions: jax 0",
        "How are you?",
        "| chosen | -10.0 | -12.5 | -2.5 | Fine&#124;well thank you |",
        "| rejected | - | - | - | No. |",
        "![training](plots/training.png)",
    ],
)
def test_the_page_has_results_data_settings_samples_and_how_it_was_made(text, line):
    assert line in text.splitlines()


def test_the_headline_stands_first_and_the_other_metrics_under_more(text):
    first, more = text.split("<details>")
    assert "`accuracy`" in first and "`loss`" in first and "`rewards/margins`" not in first
    assert "`rewards/margins`" in more.split("</details>")[0]


def test_what_is_measured_against_the_first_reference_takes_the_place_of_the_moving_one():
    names = ["kl", "initial/kl", "a/accuracy", "a/initial/accuracy", "b/accuracy", "loss", "loss/pairs", "kl/chosen"]
    assert page.headline(names) == ["a/initial/accuracy", "b/accuracy", "loss", "initial/kl"]


def test_a_run_that_is_continued_adds_its_seconds(tmp_path):
    write_metrics(tmp_path)
    summary.write(tmp_path, facts())
    summary.write(tmp_path, facts(run={**RUN, **MACHINE, "start_step": 5, "seconds": 10.0}))
    assert "- time: 73 s in 2 starts" in (tmp_path / "summary.md").read_text()


def test_all_stages_stand_on_one_page(tmp_path):
    for name, command in (("sft", "first"), ("dpo", "second")):
        write_metrics(tmp_path / name)
        summary.write(tmp_path / name, facts(settings={"objective": name}, run={**RUN, **MACHINE, "command": command}))
    (tmp_path / "front").mkdir()
    (tmp_path / "front" / "table.md").write_text("| a front |")
    summary.write_stages(tmp_path, ["sft", "dpo", "front"], title="quickstart")
    lines = (tmp_path / "summary.md").read_text().splitlines()
    assert lines[0] == "# quickstart"
    assert [line for line in lines if line.startswith("## ")][:3] == ["## sft", "## dpo", "## front"]
    assert "| setting | sft | dpo |" in lines and "| objective | sft | dpo |" in lines
    assert "![training](dpo/plots/training.png)" in lines and "| a front |" in lines
    assert "- time: sft: 63 s; dpo: 63 s" in lines


def test_a_run_without_held_out_rows_says_how_to_get_them(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 0, "split": "train", "loss": 1.0}) + "\n")
    summary.write(tmp_path, facts(samples=[]))
    text = (tmp_path / "summary.md").read_text()
    assert "set `data.eval`" in text and "Held-out samples" not in text


def test_the_plot_begins_at_one_half_and_has_a_band_of_one_standard_error(tmp_path, monkeypatch):
    write_metrics(tmp_path)
    drawn = {}

    class Axes:
        def __init__(self):
            self.lines, self.bands = [], []

        def plot(self, steps, values, **_):
            self.lines.append((list(steps), list(values)))

        def fill_between(self, steps, low, high, **_):
            self.bands.append((list(low), list(high)))

    def draw(path, panels):
        for panel in panels:
            drawn[panel.title] = axes = Axes()
            panel.draw(axes)

    monkeypatch.setattr(summary, "write_figure", draw)
    summary.plot(tmp_path)
    assert set(drawn) == {"Loss", "Accuracy", "Reward margin"}
    assert drawn["Accuracy"].lines[-1] == ([0, 10], [0.5, 0.625])
    _, smoothed = drawn["Loss"].lines[1]
    assert smoothed[0] == 1.0 and smoothed[1] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    np.testing.assert_allclose(drawn["Accuracy"].bands, [[[0.45, 0.575], [0.55, 0.675]]])


def test_a_metric_without_an_error_is_drawn_and_written(tmp_path):
    write_metrics(tmp_path, se=None)
    summary.write(tmp_path, facts())
    assert "| `accuracy` | 0.5 | 0.625 | 214 |" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "plots" / "training.png").stat().st_size > 5000
    assert summary.before_and_after(tmp_path)[1]["accuracy"].n == Estimate(0.625, 0.0, 214).n


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"run": []}', b"\xff", b"{}"])
def test_a_damaged_summary_of_an_earlier_start_is_named_and_written_anew(tmp_path, caplog, content):
    write_metrics(tmp_path)
    (tmp_path / "summary.json").write_bytes(content)
    summary.write(tmp_path, facts(run={**RUN, **MACHINE, "start_step": 5}))
    assert json.loads((tmp_path / "summary.json").read_text())["run"]["seconds"] == 63.4
    assert (content == b"{}") != (f"{tmp_path / 'summary.json'} is damaged" in caplog.text)


def test_a_stage_without_its_facts_is_named_on_the_page_of_all_stages(tmp_path):
    write_metrics(tmp_path / "a")
    summary.write(tmp_path / "a", facts())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "summary.json").write_text("{}")
    summary.write_stages(tmp_path, ["a", "b"], title="two")
    assert f"{tmp_path / 'b' / 'summary.json'} is missing or damaged" in (tmp_path / "summary.md").read_text()


def test_a_log_that_lost_its_beginning_has_no_metrics_from_before_the_first_step(tmp_path):
    write_metrics(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text(lines[-1])
    first, last = summary.before_and_after(tmp_path)
    assert first == {} and last["accuracy"].value == 0.625
    summary.write(tmp_path, facts())
    assert "| `accuracy` | - | 0.625 ± 0.050 | 214 |" in (tmp_path / "summary.md").read_text()


def test_settings_tell_how_answers_are_drawn_and_judged_as_data_and_in_words(tmp_path):
    rewards = {"short": dict(kind="length", at_most=9)}
    spec = dict(against="chosen", max_new_tokens=24, stop=("x", "y, temperature 2"), limit=None, kl=False)
    spec |= dict(rewards=rewards, prompts={}, judge=None)
    answers = describe.answers(ConfigDict(dict(eval=dict(generate=spec))))["answers"]
    data = {"against": "chosen", "kl": False, "max_new_tokens": 24, "rewards": rewards, "stop": ["x", "y, temperature 2"]}
    assert answers == json.loads(json.dumps(answers)) == data
    rewarded = "rewards.short.at_most 9, rewards.short.kind length"
    told = f"against chosen, kl False, max_new_tokens 24, {rewarded}, stop ('x', 'y, temperature 2')"
    assert wording.text(answers) == wording.text(told) == told
    write_metrics(tmp_path)
    for written in (answers, told):  # the text is what older versions wrote
        summary.write(tmp_path, facts(settings={"answers": written}))
        assert f"| answers | {told} |" in (tmp_path / "summary.md").read_text()
    assert describe.answers(ConfigDict(dict(eval=dict(generate=None)))) == {}


@pytest.mark.parametrize(
    ("judge", "rewards", "decides"),
    [
        ("length", {"short": "exact_match", "judge": "length"}, "judge"),
        ("short", {"short": "exact_match"}, "short"),
        ("model@http://host:1", {"short": "exact_match"}, "model@http://host:1"),
    ],
)
def test_a_judge_that_scores_is_told_among_the_rewards_by_the_name_of_its_scores(judge, rewards, decides):
    spec = dict(rewards=dict(short="exact_match"), judge=judge)
    told = describe.answers(ConfigDict(dict(eval=dict(generate=spec))))["answers"]
    assert (told["rewards"], told["judge"]) == (rewards, decides)


def test_settings_tell_where_the_questions_of_multiple_choice_come_from():
    several = dict(arc=dict(path="a.jsonl", limit=9), own=dict(path="b.jsonl", limit=None))
    told = describe.questions(ConfigDict(dict(eval=dict(multiple_choice=several))))
    assert told == {"multiple choice": "arc.limit 9, arc.path a.jsonl, own.path b.jsonl"}
    assert describe.questions(ConfigDict(dict(eval=dict(multiple_choice=None)))) == {}

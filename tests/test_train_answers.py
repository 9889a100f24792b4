"""A run that answers prompts and questions at every evaluation: what it writes, how it goes on, and what evaluate finds again."""

import json
from pathlib import Path
import re
import shutil

import pytest
from report_runs import Elements
import tiny

from jaxalign import evaluate, report, train
from jaxalign.reports import log, wording
from jaxalign.training import runs

pytestmark = pytest.mark.slow
OPTIMIZED = True
CONFIG = """
import importlib.util
spec = importlib.util.spec_from_file_location("tiny", {tiny!r})
tiny = importlib.util.module_from_spec(spec); spec.loader.exec_module(tiny)

def get_config(objective="dpo"):
    config = tiny.get_config(objective)
    config.data.prepared_dir = {folder!r} + "/prepared"
    config.train.update(total_steps=4, eval_every_steps=2, save_every_steps=2, keep_best=1, best_metric="-generate/win_rate")
    config.eval = dict(
        generate=dict(
            limit=6, samples=2, max_new_tokens=8, rewards=dict(long="length", the="regex:the"), judge="long", against="reference"
        ),
        multiple_choice=dict(path={folder!r} + "/questions.jsonl"),
        by="score_rejected",
    )
    return config
"""
QUESTIONS = [{"question": "Once upon a", "choices": ["time", "house", "xx"], "answer": i % 2} for i in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    (folder / "config.py").write_text(CONFIG.format(tiny=str(Path(tiny.__file__)), folder=str(folder)))
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    assert train.main(["--config", str(folder / "config.py"), "--workdir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def sft(folder):
    overrides = ["--config.train.total_steps=2", "--config.eval.generate.against=chosen"]
    assert train.main(["--config", f"{folder / 'config.py'}:sft", "--workdir", str(folder / "sft"), *overrides]) == 0
    return folder / "sft"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_measured_at_every_evaluation_and_kept(finished):
    evaluations = dict(log.read_estimates(finished))
    assert list(evaluations) == [0, 2, 4]
    first, last = evaluations[0], evaluations[4]
    assert first["generate/win_rate"].value == 0.5 and first["generate/kl"].value == pytest.approx(0, abs=1e-4)  # it is the reference
    assert last["generate/kl"].value > 3 * last["generate/kl"].se > 0
    assert {"generate/reward", "generate/reward/long", "generate/reward/the", "generate/win_rate_length_controlled"} <= last.keys()
    assert last["generate/reward"] == last["generate/reward/long"] and last["generate/reward"].n == 6
    assert first["multiple_choice/accuracy"].value == 0.5 and first["multiple_choice/chance"].value == pytest.approx(1 / 3)
    parts = [last[name] for name in last if name.startswith("by/") and name.endswith("/accuracy")]
    assert sum(one.n for one in parts) == last["accuracy"].n
    assert sum(one.n * one.value for one in parts) / last["accuracy"].n == pytest.approx(last["accuracy"].value)
    said = lines(finished / "samples" / "step-4.jsonl")
    assert [(line["id"], line["sample"]) for line in said[:3]] == [(said[0]["id"], 0), (said[0]["id"], 1), (said[2]["id"], 0)]
    assert sum(line["verdict"] for line in said) / 12 == pytest.approx(last["generate/win_rate"].value)
    assert {line["against"]["text"] for line in said} == {line["text"] for line in lines(finished / "samples" / "step-0.jsonl")}
    assert "`generate/win_rate`" in (finished / "summary.md").read_text()


def test_the_best_checkpoint_is_the_one_that_wins_most(finished):
    rates = {step: found["generate/win_rate"].value for step, found in log.read_estimates(finished) if step}
    assert rates[runs.parse_step("best", finished)] == max(rates.values())


def test_a_run_that_is_continued_says_the_same(finished, folder):
    again = folder / "again"
    shutil.copytree(finished, again)
    shutil.rmtree(again / "checkpoints" / "4")
    (again / "samples" / "step-4.jsonl").write_text("left of a run that was killed")
    assert train.main(["--config", str(folder / "config.py"), "--workdir", str(again)]) == 0
    assert lines(again / "samples" / "step-4.jsonl") == lines(finished / "samples" / "step-4.jsonl")
    assert log.read_estimates(again)[-1] == log.read_estimates(finished)[-1]


def test_an_evaluation_finds_the_same_numbers_and_changes_with_errors(finished, capsys):
    assert evaluate.main(["--workdir", str(finished)]) == 0
    found = json.loads((finished / "evaluations" / "step-4.json").read_text())
    logged = dict(log.read_estimates(finished))
    assert found["checkpoint"] == {name: one.as_dict() for name, one in logged[4].items()}
    assert found["start"] == {name: one.as_dict() for name, one in logged[0].items()}
    assert found["change"]["generate/kl"]["value"] > 0 and found["intervals"]["generate/win_rate"]["bootstrap"]
    assert lines(finished / "evaluations" / "step-4.samples.jsonl") == lines(finished / "samples" / "step-4.jsonl")
    how = json.loads((finished / "summary.json").read_text())["settings"]["answers"]
    assert found["settings"] == {"answers": how} and wording.text(how) in (finished / "summary.md").read_text()
    shown = capsys.readouterr().out
    assert "Against reference it wins" in shown and "How they were drawn and judged: against reference, " in shown


def test_flags_name_the_others_the_reward_and_the_number_of_prompts(finished, tmp_path, capsys):
    flags = ["--against", str(finished), "--reward", "{'kind': 'length'}", "--limit", "5", "--temperature", "0"]
    assert evaluate.main(["--workdir", str(finished), *flags, "--out", str(tmp_path / "x.json")]) == 0
    assert "prompts of eval.generate: limit=5 takes the first 5 and leaves the last " in capsys.readouterr().err
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["checkpoint"]["generate/win_rate"] == {"value": 0.5, "se": 0, "n": 5}  # it meets itself, and greedy texts are the same
    assert {line["against"]["from"] for line in lines(tmp_path / "x.samples.jsonl")} == {str(finished)}
    assert found["checkpoint"]["generate/kl"]["value"] > 0  # of answers at temperature 1


def test_without_a_reference_in_memory_kl_is_measured_from_the_weights_that_the_run_started_from(sft, capsys):
    (_, first), (_, last) = log.read_estimates(sft)
    assert first["generate/kl"].value == pytest.approx(0, abs=1e-4) and last["generate/kl"].value > 0
    assert {line["against"]["from"] for line in lines(sft / "samples" / "step-2.jsonl")} == {"chosen"} and last["generate/win_rate"].n == 6
    assert evaluate.main(["--workdir", str(sft), "--config.model.checkpoint=/nope"]) == 1
    assert "Set eval.generate.kl=False" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tr_dpo(folder):
    soft = ["--config.reference.rule=soft", "--config.reference.alpha=0.6", "--config.reference.every_steps=1"]
    arguments = ["--config", str(folder / "config.py"), "--workdir", str(folder / "tr_dpo"), "--config.train.total_steps=2", *soft]
    assert train.main([*arguments, "--config.eval.multiple_choice=None"]) == 0
    return folder / "tr_dpo"


def test_the_page_about_three_methods_holds_the_numbers_of_their_evaluations(finished, sft, tr_dpo, folder):
    prompts = [{"prompt": f"{start} upon a time there was"} for start in ("Once", "One day", "Long ago", "There", "Soon", "Then")]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    flags, found = ["--prompts", str(folder / "prompts.jsonl"), "--reward", "length", "--max-new-tokens", "6"], {}
    for name, (run, against) in {"sft": (sft, "reference"), "run": (finished, sft), "tr_dpo": (tr_dpo, finished)}.items():
        out = run / "evaluations" / f"step-{4 if run is finished else 2}-same.json"
        assert evaluate.main(["--workdir", str(run), "--against", str(against), "--out", str(out), *flags]) == 0
        found[name] = json.loads(out.read_text()) | {"said": lines(out.with_suffix(".samples.jsonl"))}
    assert report.main([str(sft), str(finished), str(tr_dpo), "--out", str(folder / "report.html")]) == 0
    page = Elements((folder / "report.html").read_text(encoding="utf-8"))
    answer = page.text[page.text.rindex("Which is better") :].partition("All results")[0]
    for name, against in (("run", "sft"), ("tr_dpo", "run")):
        rate, (low, high) = found[name]["checkpoint"]["generate/win_rate"], found[name]["intervals"]["generate/win_rate"]["wilson"]
        assert f"{name} against {against} {rate['value']:.2f} ({low:.2f} to {high:.2f}; 6 prompts)" in answer
    values = {name: {key: numbers["checkpoint"][f"generate/{key}"]["value"] for key in ("kl", "reward")} for name, numbers in found.items()}
    best, *others = sorted(values, key=lambda name: -values[name]["reward"])
    question = "reward of generated answers, max_new_tokens 6, 6 prompts of prompts.jsonl"
    (told,) = re.findall(rf"(?:{best} is better in|Which has the best) {question}.*?All intervals hold together", answer)
    for name in others:
        lead = values[best]["reward"] - values[name]["reward"]
        assert re.search(rf"{name} (\(it leads )?by {lead:.1f}\d? \(−?\d", told), (name, lead, told)
    trade_off = {tip for name, one in values.items() if (tip := f"{name}: {one['reward']:.4g} at {one['kl']:.4g}") in page.tips}
    assert len(trade_off) == 3
    for name, numbers in found.items():
        (card, *_) = [card for card in page.cards if card.startswith(f"{name}length")]
        text, against = numbers["said"][0]["text"], {"sft": "its start", "run": "sft", "tr_dpo": "run"}[name]
        assert card.endswith(text.strip("\n") or "says nothing") and f" against {against}" in card
    differs, _ = page.text[page.text.index("differs in") :].split("What is the same")
    assert "referencenonefrozensoft, alpha 0.6, every_steps 1" in differs and "objectivesftdpo, beta 0.1dpo, beta 0.1" in differs

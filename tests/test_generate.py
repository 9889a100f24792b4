"""`python -m jaxalign.generate`, on the small model of the package."""

import argparse
import io
import json
import shutil
import signal
import subprocess
import sys

import pytest

from jaxalign import generate
from jaxalign.config import goal_of_run
from jaxalign.data.raw.counts import Counts
from jaxalign.hosts.alone import alone
from jaxalign.paths import ASSETS
from jaxalign.sampling import speaker

MODEL = ("--checkpoint", "package:stories260k")
SHORT = ("--max-new-tokens", "12", "--places", "4")


def prompts_of(tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": "Once upon a time"},
        {"question": "Tom and Jane", "id": "tom"},
        {"prompt": "One day", "chosen": "a", "rejected": "b"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


class same:
    """Equal to a line that differs in rounding of log-probs alone: a sample is drawn beside other ones after a restart."""

    def __init__(self, line):
        self.values = json.loads(line)

    def __eq__(self, line):
        near = {name: pytest.approx(self.values[name], abs=2e-5) for name in ("logps", "sampled_logps")}
        return json.loads(line) == self.values | near


def test_lines_hold_what_was_asked_and_said_and_a_killed_run_ends_with_the_same(tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    command = [*MODEL, *SHORT, "--prompts", prompts_of(tmp_path), "--samples", "2", "--out", str(out)]
    assert generate.main(command) == 0
    whole = out.read_text().splitlines()
    lines = [json.loads(line) for line in whole]
    assert [(line["id"], line["sample"]) for line in lines] == [(0, 0), (0, 1), ("tom", 0), ("tom", 1), (2, 0), (2, 1)]
    assert all(len(line["token_ids"]) == len(line["logps"]) == len(line["sampled_logps"]) == 12 for line in lines)
    assert {line["stop"] for line in lines} == {"length"} and all(line["text"] for line in lines)
    assert lines[0]["prompt"].endswith("Once upon a time")
    assert "6 samples: 72 tokens in" in capsys.readouterr().err
    out.write_text("\n".join(whole[:3]) + "\n" + whole[3][:40])  # as a kill leaves it
    with alone(out, ""):
        assert generate.main(command) == 1
    assert f"another process writes {out}" in capsys.readouterr().err and out.read_text().count("\n") == 3
    assert generate.main(command) == 0
    assert out.read_text().splitlines() == [same(line) for line in whole]


def test_an_id_that_several_prompts_have_is_told_and_a_folder_is_no_file_of_samples(tmp_path, capsys):
    rows = [{"id": "a", "prompt": "Once"}, {"id": "a", "prompt": "Twice"}, {"prompt": "Thrice"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = list(speaker.asked_file(tmp_path / "p.jsonl", Counts(), limit=None))
    assert len(asked) == 3 and "2 prompts have the id 'a'" in speaker.shared_id(asked)[0]
    assert generate.main([*MODEL, "--prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path)]) == 1
    assert "is a folder; name a file in it" in capsys.readouterr().err


def test_a_prompt_of_the_command_line_is_answered_on_the_terminal(capsys):
    assert generate.main([*MODEL, *SHORT, "--prompt", "Once upon a time", "--greedy"]) == 0
    assert capsys.readouterr().out.startswith("[0.0] , there was a little girl")


@pytest.mark.slow
def test_a_chat_says_what_a_prompt_says_and_what_was_drawn_in_one_go(capsys, monkeypatch):
    command = [*SHORT[:2], "--temperature", "0.7", "--seed", "3"]
    monkeypatch.setattr("sys.stdin", io.StringIO("Once upon a time\n"))
    assert generate.main([*command, "--chat", MODEL[1]]) == 0
    said = capsys.readouterr().out
    assert generate.main([*MODEL, *command, "--prompt", "Once upon a time"]) == 0
    assert capsys.readouterr().out == f"[0.0] {said}" and len(said) > 10


KILLED = """
import os, signal, sys
from jaxalign import generate
from jaxalign.sampling.lines import Lines
add, count = Lines.add, 0
def add_and_die(*arguments):
    global count
    add(*arguments)
    count += 1
    if count == 4:
        os.kill(os.getpid(), signal.SIGKILL)
Lines.add = add_and_die
generate.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_generation_that_is_killed_goes_on_and_ends_with_the_same_lines(tmp_path):
    command = [*MODEL, *SHORT, "--prompts", prompts_of(tmp_path), "--samples", "3", "--stop", " girl"]
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert generate.main([*command, "--out", str(whole)]) == 0
    killed = subprocess.run([sys.executable, "-c", KILLED, *command, "--out", str(cut)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert whole.read_text().startswith(cut.read_text()) and 0 < cut.read_text().count("\n") < 9
    assert generate.main([*command, "--out", str(cut)]) == 0
    assert cut.read_text().splitlines() == [same(line) for line in whole.read_text().splitlines()]


def test_a_stop_string_that_never_comes_is_told(capsys):
    assert generate.main([*MODEL, *SHORT, "--prompt", "Once upon a time", "--greedy", "--stop", "xyz"]) == 0
    assert "1 at 12 tokens\nno sample contained --stop 'xyz'" in capsys.readouterr().err


def test_several_texts_may_end_a_sample(capsys):
    assert generate.main([*MODEL, *SHORT, "--prompt", "Once upon a time", "--greedy", "--stop", "xyz", "--stop", " girl"]) == 0
    assert capsys.readouterr().out == "[0.0] , there was a little\n\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "a"], "give --workdir RUN or --checkpoint FOLDER"),
        ([*MODEL], "give --prompts FILE or --prompt TEXT"),
        ([*MODEL, "--prompt", "a", "--step", "3"], "--step has no effect without --workdir"),
        ([*MODEL, "--prompt", "a", "--limit", "3"], "--limit has no effect without --prompts"),
        ([*MODEL, "--prompt", "a", "--greedy", "--temperature", "0.5"], "--greedy takes the likeliest token"),
        ([*MODEL, "--prompt", "a", "--greedy", "--temperature", "1"], "--temperature 1.0 draws; give one of them"),
        ([*MODEL, "--prompt", "a", "--greedy", "--samples", "3"], "--samples 3 has no effect where the likeliest token is taken"),
        ([*MODEL, "--prompt", "a", "--temperature", "0", "--seed", "3"], "--seed 3 has no effect"),
        ([*MODEL, "--prompt", "a", "--greedy", "--guide", "x"], "the likeliest token makes them equal"),
        ([*MODEL, "--prompt", "a", "--max-new-tokens", "600"], "--max-new-tokens=600 leaves a prompt no room in the model's 512 positions"),
        ([*MODEL, "--prompt", "a", "--samples", "0"], "--samples 0 must be at least 1"),
        ([*MODEL, "--prompt", "a", "--lanes", "0"], "--lanes 0 must be at least 1"),
        ([*MODEL, "--prompt", "a", "--seed", "-1"], "--seed -1 must be in 0 to 4294967295"),
        ([*MODEL, "--prompt", "a", "--top-p", "0"], "top_p=0.0 is a probability"),
        ([*MODEL, "--prompt", "a " * 600], "shorten the prompt or lower max_new_tokens"),
        (["--chat"], "give --workdir RUN or --checkpoint FOLDER"),
        (["--chat", "a", "b", "c"], "--chat takes one model or two, and 3 are named"),
        ([*MODEL, "--chat", "a"], "--chat takes one model or two, and 2 are named"),
        (["--chat", "nowhere"], "nowhere"),
        ([*MODEL, "--chat", "--samples", "2"], "--samples has no effect with --chat"),
        ([*MODEL, "--prompt", " "], "the prompt is empty"),
        ([*MODEL, "--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--workdir", "nowhere", "--prompt", "a"], "nowhere"),
    ],
)
def test_a_wrong_command_is_one_sentence(arguments, words, capsys):
    assert generate.main(arguments) == 1
    message = capsys.readouterr().err
    assert words in message and "inside jaxalign" not in message


def test_a_prompt_that_cannot_be_answered_is_told_and_counted_and_the_others_are_answered(tmp_path, capsys):
    file, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": "a"}, {"id": "tale", "prompt": "a " * 520}, {"nothing": 1}, {"prompt": "a " * 600}, {"id": "b", "prompt": "b"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert generate.main([*MODEL, *SHORT, "--prompts", str(file), "--out", str(out)]) == 0
    err = capsys.readouterr().err
    assert "2 of 5 rows kept\n" in err and "dropped 2 by prompt_too_long; first is row 1: tale: the prompt has" in err
    assert "there is room for 500 beside max_new_tokens" in err
    assert err.rstrip().endswith("rows without a sample: 3 of 5; the lines at the beginning tell why.")
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [0, "b"]


@pytest.mark.parametrize("flag", ["filter", "guide"])
def test_a_prompt_leaves_room_in_the_model_that_judges_as_well(flag, tmp_path):
    folder = shutil.copytree(ASSETS / "stories260k", tmp_path / "short")
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 6}
    (folder / "config.json").write_text(json.dumps(config))
    options = dict.fromkeys(("filter", "guide", "workdir", "template"), None) | {"dtype": "auto", "max_new_tokens": 2, flag: str(folder)}
    options = argparse.Namespace(**options, checkpoint=MODEL[1], prompt="Once upon a time there")
    with pytest.raises(ValueError, match=f"there is room for {4 if flag == 'filter' else 5} beside max_new_tokens"):
        generate._asked(options, generate._Model(MODEL[1], options))


@pytest.mark.parametrize("flag", ["--filter", "--guide"])
@pytest.mark.parametrize(
    ("out", "words"),
    [("p.jsonl", "p.jsonl is there and cannot be continued"), ("p.jsonl/out.jsonl", "p.jsonl"), (".", "is a folder; name a file in it")],
)
def test_a_file_that_cannot_be_written_is_told_before_a_goal_is_made(flag, out, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "_training", lambda name: name)
    monkeypatch.setattr(goal_of_run, "check_writing", lambda *_: None)
    monkeypatch.setattr(generate, "_guide", lambda *_: pytest.fail("a goal was made"))
    command = [*MODEL, "--prompts", prompts_of(tmp_path), flag, MODEL[1], "--out", str(tmp_path / out)]
    (tmp_path / "p.jsonl").write_text('{"prompt": "mine"}\n')
    assert generate.main(command) == 1
    assert words in capsys.readouterr().err and (tmp_path / "p.jsonl").read_text() == '{"prompt": "mine"}\n'


def test_samples_that_were_left_before_are_not_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "_training", lambda name: pytest.fail("the run was read"))
    (tmp_path / "run-0.5.kept.jsonl").write_text("earlier\n")
    command = [*MODEL, "--prompts", prompts_of(tmp_path), "--filter", MODEL[1], "--out"]
    for name in ("run-0.5", "run-0.5.jsonl"):
        assert generate.main([*command, str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert f"the file of samples that are left, {tmp_path / 'run-0.5.kept.jsonl'}, is there already; give another --out" in error
    assert (tmp_path / "run-0.5.kept.jsonl").read_text() == "earlier\n"


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.csv"])
def test_an_empty_file_is_refused_by_name(name, tmp_path, capsys):
    (tmp_path / name).write_text("")
    assert generate.main([*MODEL, "--prompts", str(tmp_path / name)]) == 1
    message = capsys.readouterr().err
    assert str(tmp_path / name) in message and "empty" in message and "inside jaxalign" not in message


def test_a_file_without_prompts_is_refused(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"x": 1}\n')
    assert generate.main([*MODEL, "--prompts", str(tmp_path / "p.jsonl")]) == 1
    assert "has no prompt that can be answered:" in capsys.readouterr().err

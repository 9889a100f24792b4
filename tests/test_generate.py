"""`python -m jaxalign.generate`, on the small model of the package."""

import json

import pytest

from jaxalign import generate

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
    assert "72 tokens in" in capsys.readouterr().err
    out.write_text("\n".join(whole[:3]) + "\n" + whole[3][:40])  # as a kill leaves it
    assert generate.main(command) == 0
    again = [json.loads(line) for line in out.read_text().splitlines()]
    assert [{**line, "logps": 0, "sampled_logps": 0} for line in again] == [{**line, "logps": 0, "sampled_logps": 0} for line in lines]
    assert [line["logps"] for line in again] == [pytest.approx(line["logps"], abs=2e-5) for line in lines]


def test_a_prompt_of_the_command_line_is_answered_on_the_terminal(capsys):
    assert generate.main([*MODEL, *SHORT, "--prompt", "Once upon a time", "--greedy"]) == 0
    assert capsys.readouterr().out.startswith("[0.0] , there was a little girl")


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
        ([*MODEL, "--prompt", "a", "--samples", "0"], "--samples 0 must be at least 1"),
        ([*MODEL, "--prompt", "a", "--lanes", "0"], "--lanes 0 must be at least 1"),
        ([*MODEL, "--prompt", "a", "--seed", "-1"], "--seed -1 must be in 0 to 4294967295"),
        ([*MODEL, "--prompt", "a", "--top-p", "0"], "top_p=0.0 is a probability"),
        ([*MODEL, "--prompt", "a " * 600], "shorten the prompt or lower max_new_tokens"),
        ([*MODEL, "--prompt", " "], "the prompt is empty"),
        ([*MODEL, "--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--workdir", "nowhere", "--prompt", "a"], "nowhere"),
    ],
)
def test_a_wrong_command_is_one_sentence(arguments, words, capsys):
    assert generate.main(arguments) == 1
    message = capsys.readouterr().err
    assert words in message and "inside jaxalign" not in message


def test_a_file_without_prompts_is_refused(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"x": 1}\n')
    assert generate.main([*MODEL, "--prompts", str(tmp_path / "p.jsonl")]) == 1
    assert "has no prompt:" in capsys.readouterr().err

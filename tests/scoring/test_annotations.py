"""`annotate --rows`: scores of the answers of every format, mended labels, pairs of samples; what it writes is read again."""

import json
import math

import numpy as np
import pytest

from jaxalign import annotate
from jaxalign.data.raw.counts import Counts
from jaxalign.data.raw.formats import to_example
from jaxalign.data.raw.sources import Rows
from jaxalign.hosts.alone import alone
from jaxalign.scoring import annotations, rewards

USER = {"role": "user", "content": "Hi"}
TURNS = [USER, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you"}]


def judged(*rows, format=None):
    counts = Counts()
    return list(annotations.read(Rows(rows, name="rows", identity="0"), counts, format=format)), counts


def scored(*rows, spec="length", name="reward"):
    found, _ = judged(*rows)
    scores = annotations.score(found, rewards.make(spec), quiet=True)
    return [row for one, own in zip(found, scores, strict=True) for row in annotations.with_column(one, own, name)]


@pytest.mark.parametrize(
    "row, added",
    [
        (dict(prompt="q", chosen="abc", rejected="d"), dict(reward_chosen=3, reward_rejected=1)),
        (dict(chosen=TURNS, rejected=[*TURNS[:-1], TURNS[1]]), dict(reward_chosen=7, reward_rejected=5)),
        (dict(chosen="\n\nHuman: q\n\nAssistant: abc", rejected="\n\nHuman: q\n\nAssistant: d"), dict(reward_chosen=3, reward_rejected=1)),
        (dict(prompt="q", response_0="abc", response_1="d", better_response_id=1), dict(reward_chosen=1, reward_rejected=3)),
        (dict(prompt="q", completion="abc", label=False), dict(reward=3)),
        (dict(prompt="q", completion="abc", score=7), dict(reward=3)),
        (dict(prompt="q", responses=["abc", "d"], scores=[7, 9]), dict(reward=[3, 1])),
        (dict(prompt="q", responses=["abc", "d", "ef"]), dict(reward=[3, 1, 2])),
        (dict(prompt="q", responses=["abc", "d", "ef"], ranks=[3, 1, 2]), dict(reward=[3, 1, 2])),
        (dict(prompt="q", answers=[dict(answer=a, rank=r) for a, r in (("abc", 3), ("d", 1), ("ef", 2))]), dict(reward=[3, 1, 2])),
        (dict(prompt="q", response_0="abc", response_1="d", rank_0=2, rank_1=1), dict(reward_chosen=1, reward_rejected=3)),
        (dict(messages=TURNS), dict(reward=7)),
        (dict(instruction="q", input="about", output="abc"), dict(reward=3)),
        (dict(text="abc"), dict(reward=3)),
    ],
)
def test_every_format_gets_its_scores_beside_what_it_holds(row, added):
    assert scored(row) == [row | added]


def test_a_pair_with_scores_is_read_again_with_them_as_a_column():
    row = scored(dict(prompt="q", chosen="d", rejected="abc"))[0]
    example = to_example(row, name="paired", keep_columns={"margin": "reward"})
    assert example.columns == {"margin": (1.0, 3.0)}


def test_a_reward_sees_the_conversation_before_the_last_turn_and_the_columns_of_the_row(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def turns(prompts, completions, metadata):\n"
        "    return [10 * len(p) + len(p[-1]['content']) + row['gold'] for p, row in zip(prompts, metadata)]\n"
    )
    assert scored(dict(messages=TURNS, gold=0.5), spec=f"{tmp_path / 'mine.py'}:turns")[0]["reward"] == 33.5


def test_rows_that_break_a_rule_are_counted_and_a_missing_score_is_null():
    found, counts = judged(
        dict(prompt="q", completion="#### 1", answer="1"), dict(prompt="q", completion=""), dict(prompt="q", completion="2")
    )
    assert counts.kept == 2 and set(counts.rules) == {"empty_response"}
    scores = annotations.score(found, rewards.make("gsm8k"), quiet=True)
    lines = [annotations.with_column(one, own, "right")[0]["right"] for one, own in zip(found, scores, strict=True)]
    assert lines == [1.0, None]


COUNTING = """
def score(prompts, completions, metadata):
    with open({file!r}, "a") as file:
        file.write("called ")
    return [float(len(text)) for text in completions]
"""


@pytest.mark.parametrize(
    "row, flags, column",
    [
        (dict(prompt="q", completion="a", reward=3), [], "reward"),
        (dict(prompt="q", chosen="a", rejected="bc", mine_rejected=3), ["--column", "mine"], "mine_rejected"),
    ],
)
def test_a_column_that_is_there_is_told_before_anything_is_scored(row, flags, column, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(COUNTING.format(file=str(tmp_path / "calls")))
    files = ["--rows", write(tmp_path / "rows.jsonl", row), "--out", str(tmp_path / "out.jsonl")]
    assert annotate.main([*files, "--reward", f"{tmp_path / 'mine.py'}:score", *flags]) == 1
    assert f"a column {column!r} already; name another with --column" in capsys.readouterr().err
    assert not (tmp_path / "calls").exists() and not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    "spec, words",
    [
        ("judge:m@http://127.0.0.1:9/v1", "writes prompts itself, and those in a sample are written already"),
        ("{'kind': 'sum', 'of': {'a': ('judge:m@http://127.0.0.1:9/v1', 1.0)}}", "writes prompts itself"),
        ("gsm8k", "reads answer of the rows that the prompts came from"),
    ],
)
def test_samples_are_not_scored_by_what_would_write_their_prompts_twice_or_lacks_their_rows(spec, words, tmp_path, capsys):
    samples = tmp_path / "samples.jsonl"
    samples.write_text('{"broken\n' + json.dumps(dict(id="a", sample=0, prompt="<|user|>q<|assistant|>", text="b")) + "\n")
    assert annotate.main(["--rows", str(samples), "--reward", spec, "--out", str(tmp_path / "out.jsonl")]) == 1
    error = capsys.readouterr().err
    assert words in error and "add --prompts FILE, the file that generate read" in error


def test_a_column_with_half_a_character_is_written_as_it_was_read(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "abc \u00e9", "note": "\\ud83d"}\n')
    assert annotate.main(["--rows", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out.jsonl"), "--reward", "length"]) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"text": "abc \u00e9", "note": "\ud83d", "reward": 5.0}


def test_a_second_process_with_the_same_out_is_refused(tmp_path, capsys):
    files = ["--rows", write(tmp_path / "rows.jsonl", dict(text="abc")), "--out", str(tmp_path / "out.jsonl"), "--reward", "length"]
    with alone(tmp_path / "out.jsonl.partial", ""):
        assert annotate.main(files) == 1
    assert "another process writes" in capsys.readouterr().err and annotate.main(files) == 0


def test_labels_are_mended_and_what_judged_the_old_ones_is_left_out():
    found, _ = judged(
        dict(prompt="q", chosen="d", rejected="abc", score_chosen=9, score_rejected=2, subset="s"),
        dict(prompt="q", chosen="abc", rejected="d", chosen_model="m"),
        dict(prompt="q", chosen="abc", rejected="def"),
        dict(prompt="q", chosen="abc", rejected="de"),
        dict(prompt="q", response_0="abc", response_1="d", better_response_id=1, quality_score=3, subset="t"),
    )
    scores = annotations.score(found, rewards.make("length"), quiet=True)
    rows, tally = annotations.relabelled(found, np.array([0, 1, 0.5, math.nan, 0]), scores, "reward")
    assert rows == [
        dict(subset="s", prompt="q", chosen="abc", rejected="d", reward_chosen=3, reward_rejected=1),
        dict(prompt="q", chosen="abc", rejected="d", reward_chosen=3, reward_rejected=1),
        dict(subset="t", prompt="q", chosen="abc", rejected="d", reward_chosen=3, reward_rejected=1),
    ]
    assert tally == (1, 2, 1, 1)


def test_of_a_pair_that_is_turned_no_column_about_its_answers_is_carried_over_and_each_is_named():
    about = dict(margin=2.5, chosen_len=1, rejected_model="m", score_diff=3, lengths=[1, 3], info=dict(preference_strength=2))
    found, _ = judged(*(dict(prompt="q", chosen="a", rejected="bbb", difficulty=4, answer="b", **about) for _ in range(2)))
    rows, _ = annotations.relabelled(found, np.array([0, 1]), None, "reward")
    kept = dict(prompt="q", difficulty=4, answer="b")
    assert rows == [dict(kept, chosen="bbb", rejected="a"), dict(kept, chosen="a", rejected="bbb")]
    (line,) = annotations.left_out(found, annotate.OF_ANSWERS)
    assert all(f"{column} (2 rows)" in line for column in about) and "difficulty" not in line


def test_samples_of_prompts_that_share_an_id_are_scored_with_their_own_prompt():
    lines = [dict(id="a", sample=0, prompt=prompt, text=text) for prompt, text in (("P one", "x"), ("P two", "y"), ("P one", "z"))]
    found = list(annotations.read_samples(Rows(lines, name="s", identity="0"), None, Counts()))
    assert [(one.prompt, one.responses) for one in found] == [("P one", ("x", "z")), ("P two", ("y",))]
    with pytest.raises(ValueError, match="text of line 0 is None"):
        list(annotations.read_samples(Rows([lines[0] | {"text": None}], name="s", identity="0"), None, Counts()))


def test_the_best_and_the_worst_answer_make_a_pair_unless_they_are_as_good():
    found, _ = judged(*(dict(prompt=f"q{i}", responses=["a", "bb", "cc", "dddd"]) for i in range(4)))
    scores = [np.float32(own) for own in ([1, 3, math.nan, 0], [2, 2, 2, 2], [5, math.nan, math.nan, math.nan], [1, 1.5, 1.2, 1])]
    rows, tally = annotations.best_and_worst(found, scores, "r", margin=0.5)
    assert rows == [dict(prompt="q0", chosen="bb", rejected="dddd", r_chosen=3.0, r_rejected=0.0)]
    assert tally == (1, 0, 2, 1)


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_command_makes_pairs_of_samples_with_the_prompts_as_they_were_asked(tmp_path, capsys):
    asked = [dict(id="a", messages=[USER], answer="7"), dict(messages=[USER | {"content": "Bye"}], answer="8"), dict(id="c", prompt="")]
    lines = [dict(id=key, sample=k, prompt=f"<s>{key}", text=text) for key in ("a", 1) for k, text in enumerate(["it is 7", "8", "9"])]
    samples, questions = write(tmp_path / "samples.jsonl", *lines), write(tmp_path / "asked.jsonl", *asked)
    arguments = ["--rows", samples, "--reward", "gsm8k", "--prompts", questions]
    assert annotate.main([*arguments, "--pairs", "--out", str(tmp_path / "pairs.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "2 pairs of 2 prompts; 0 are ties, 0 have fewer than two scores" in out
    assert "columns of --prompts left out, since a pair of samples has the id and the prompt alone: answer (2 rows)\n" in out
    rows = read(tmp_path / "pairs.jsonl")
    assert rows == [
        dict(id="a", prompt=[USER], chosen="it is 7", rejected="8", reward_chosen=1, reward_rejected=0),
        dict(id=1, prompt=[USER | {"content": "Bye"}], chosen="8", rejected="it is 7", reward_chosen=1, reward_rejected=0),
    ]
    assert len(to_example(rows[0], name="paired").responses) == 2
    assert annotate.main([*arguments, "--column", "right", "--out", str(tmp_path / "scored.jsonl")]) == 0
    assert read(tmp_path / "scored.jsonl") == [line | {"right": right} for line, right in zip(lines, [1, 0, 0, 0, 1, 0], strict=True)]


def test_samples_of_an_id_that_several_prompts_have_are_dropped_and_counted(tmp_path, capsys):
    asked = [dict(id="a", prompt="one"), dict(id="b", prompt="two"), dict(id="a", prompt="three"), *[dict(id="c", prompt="four")] * 2]
    lines = [dict(id=key, sample=k, prompt=f"<s>{key}", text=text) for key in "abac" for k, text in enumerate(["x", "yy"])]
    samples, questions = write(tmp_path / "samples.jsonl", *lines), write(tmp_path / "asked.jsonl", *asked)
    arguments = ["--rows", samples, "--reward", "length", "--prompts", questions]
    assert annotate.main([*arguments, "--pairs", "--out", str(tmp_path / "pairs.jsonl")]) == 0
    error = capsys.readouterr().err
    assert "4 of 8 rows kept" in error and "dropped 4 by same_id; first is row 0: " in error
    assert "the line answers the prompt 'a', and rows 0, 2 of" in error
    assert [(row["id"], row["prompt"]) for row in read(tmp_path / "pairs.jsonl")] == [("b", "two"), ("c", "four")]
    assert annotate.main([*arguments, "--format", "completion", "--out", str(tmp_path / "out.jsonl")]) == 1
    assert "--format completion is of rows, and " in capsys.readouterr().err
    write(tmp_path / "samples.jsonl", dict(lines[0], id="z"))
    assert annotate.main([*arguments, "--out", str(tmp_path / "out.jsonl")]) == 1
    assert f"line 0 answers the prompt 'z', which {questions} does not have" in capsys.readouterr().err


@pytest.mark.parametrize("texts, told", [(["abc"], "1 scores: mean 3\n"), (["abc", "d"], "2 scores: mean 2, standard deviation 1\n")])
def test_the_spread_of_a_single_score_is_not_told(texts, told, tmp_path, capsys):
    rows = write(tmp_path / "rows.jsonl", *(dict(text=text) for text in texts))
    assert annotate.main(["--rows", rows, "--reward", "length", "--out", str(tmp_path / "out.jsonl")]) == 0
    assert told in capsys.readouterr().out


def test_the_command_mends_labels_and_says_how_often_they_were_right(tmp_path, capsys):
    rows = write(tmp_path / "rows.jsonl", *(dict(prompt=f"q{i}", chosen="a" * i, rejected="bb") for i in (1, 2, 3, 4)))
    spec = "{'kind': 'length', 'unit': 'characters'}"
    assert annotate.main(["--rows", rows, "--reward", spec, "--relabel", "--out", str(tmp_path / "out" / "mended.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "2 pairs as they were, 1 turned around, 1 ties and 0 without a verdict left out" in out
    assert "agreement with the labels, a tie counting half: 0.625 (95 %: " in out
    assert [row["chosen"] for row in read(tmp_path / "out" / "mended.jsonl")] == ["bb", "aaa", "aaaa"]


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], "give --reward SPEC"),
        (["--reward", "length", "--judge", "m@http://h/v1"], "it goes with --relabel"),
        (["--reward", "length", "--relabel", "--pairs"], "give one of them"),
        (["--reward", "lenght"], "did you mean length?"),
        (["--reward", "{'kind'"], "is no dict as Python writes it"),
        (["--reward", "gsm8k"], "reads the column 'answer' of the prompts' rows; they have chosen, prompt, rejected"),
        (["--reward", "length", "--margin", "0"], "goes with --pairs"),
        (["--judge", "m@http://h/v1", "--relabel", "--column", "x"], "--column x names scores, and a --judge gives none"),
        (["--reward", "length", "--format", "pared"], "did you mean paired?"),
        (["--reward", "length", "--format", "ranked"], "has no answer that can be scored"),
        (["--reward", "length", "--limit", "0"], "--limit 0 must be at least 1"),
        (["--reward", "length", "--prompts", "rows.jsonl"], "goes with samples of generate"),
        (["--reward", "length", "--workdir", "x"], "--workdir has no effect"),
        (["--reward", "{'kind': 'length', 'at_most': 1}", "--relabel"], "1 ties and 0 without a verdict left out"),
        (["--reward", "length", "--pairs", "--margin", "9"], "no pair is left, so out.jsonl is not written"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", dict(prompt="q", chosen="abc", rejected="d"))
    assert annotate.main(["--rows", "rows.jsonl", "--out", "out.jsonl", *flags]) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "out.jsonl").exists()


def test_neither_an_existing_file_is_replaced_nor_a_set_without_pairs_mended(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", dict(prompt="q", completion="abc"))
    assert annotate.main(["--rows", "rows.jsonl", "--out", "rows.jsonl", "--reward", "length"]) == 1
    assert annotate.main(["--rows", "rows.jsonl", "--out", "out.jsonl", "--reward", "length", "--relabel"]) == 1
    assert annotate.main(["--rows", "rows.jsonl", "--reward", "length"]) == 1
    assert annotate.main(["--rows", "rows.jsonl", "--out", ".", "--reward", "length"]) == 1
    error = capsys.readouterr().err
    assert (
        "rows.jsonl is there already" in error
        and "1 rows of " in error
        and "are none; --pairs" in error
        and "--out FILE.jsonl is missing" in error
        and "--out . is a folder; name a file in it" in error
    )

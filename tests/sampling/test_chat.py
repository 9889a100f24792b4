"""A conversation: what a model is given, what a person reads, and the commands. The model is a stand-in, its answers are given."""

import io
import os
import signal
import types

import numpy as np
import pytest

from jaxalign.data.text import render
from jaxalign.data.text.tokenizer import load
from jaxalign.paths import resolve
from jaxalign.sampling.conversation import Talker
from jaxalign.sampling.sampler import Sample
from jaxalign.sampling.speaker import Speaker
from jaxalign.sampling.stopping import Stopping
from jaxalign.sampling.terminal import Chat, printable, side_by_side

TOKENIZER = load(resolve("package:stories260k"))
POSITIONS, NEW = 200, 12


class StandIn:
    """A sampler whose answers are given: (text, why it ends), told two tokens at a time."""

    def __init__(self, *answers, strings=()):
        self.stopping = Stopping(NEW, ids=(TOKENIZER.eos_id,), strings=strings)
        self.model = types.SimpleNamespace(config=types.SimpleNamespace(max_positions=POSITIONS))
        self.answers, self.prompts, self.seeds = list(answers), [], []

    def stream(self, params, prompt, *, seed, steps):
        self.prompts.append(TOKENIZER.decode(prompt))
        self.seeds.append(seed)
        text, why = self.answers.pop(0)
        ids = TOKENIZER.encode_next(text) + [TOKENIZER.eos_id] * (why == "stop")
        for count in [*range(2, len(ids), 2), len(ids)]:
            own = np.array(ids[:count], np.int32)
            yield Sample(0, 0, own, own, own, why if count == len(ids) else None)


def talker(*answers, template="plain", name="one", **stopping):
    sampler = StandIn(*answers, **stopping)
    return Talker(name, Speaker(render.make(TOKENIZER, template=template), (TOKENIZER.eos_id,)), sampler, None), sampler


def talk(lines, *talkers, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return Chat(talkers, seed=7).run()


def test_a_template_gets_the_whole_conversation(monkeypatch, capsys):
    one, sampler = talker((" a", "stop"), (" b", "stop"), (" c", "length"), template="hh")
    assert talk(["first\\", "line", "second", "/undo", "/system kind", "third"], one, monkeypatch=monkeypatch)
    turn = "\n\nHuman: {}\n\nAssistant:".format
    start = TOKENIZER.bos + " "
    assert sampler.prompts[:2] == [start + turn("first\nline"), start + turn("first\nline") + " a" + turn("second")]
    assert sampler.prompts[2].endswith(turn("third")) and "kind" in sampler.prompts[2] and "first" not in sampler.prompts[2]
    out, err = capsys.readouterr()
    assert out == " a\n\n b\n\n c\n\n"
    assert err.count("[cut at --max-new-tokens]") == 1


def test_without_a_template_a_text_goes_on_until_the_model_ends_it(monkeypatch):
    one, sampler = talker((" there was", "length"), (" a girl", "length"), (" named", "stop"), (" x", "stop"))
    assert talk(["", "Once", "", " happy", "", "One day"], one, monkeypatch=monkeypatch)
    prompts = [prompt.replace("<s>", "").strip() for prompt in sampler.prompts]
    assert prompts == ["Once", "Once there was", "Once there was a girl happy", "One day"]


def test_commands(monkeypatch, capsys):
    one, sampler = talker(*[(f" {letter}", "stop") for letter in "abcd"])
    lines = ["/undo", "x", "/again", "/nothing", "/reset now", "/reset", "//y", "/help", "/system z", "/quit", "never"]
    assert not talk(lines, one, monkeypatch=monkeypatch)
    assert [prompt.replace("<s>", "").strip() for prompt in sampler.prompts] == ["x", "x", "/y"]
    assert sampler.seeds == [7, 8, 7] and [turn.answer for turn in one.turns] == [" c"]
    out, err = capsys.readouterr()
    assert out == " a\n\n b\n\n c\n\n"
    refused = "/undo: nothing has been said", "'/nothing' is no command", "'/reset now' is no command", "needs a chat template", "/again "
    for words in refused:
        assert words in err


def test_two_models_answer_side_by_side_and_remember_their_own_answers(monkeypatch, capsys):
    one, first = talker((" a", "length"), (" b", "length"), name="one")
    two, second = talker((" c", "length"), (" d", "length"), name="two")
    assert talk(["x", " y"], one, two, monkeypatch=monkeypatch)
    assert (first.prompts[1].replace("<s>", "").strip(), second.prompts[1].replace("<s>", "").strip()) == ("x a y", "x c y")
    out, err = capsys.readouterr()
    assert out == "[one]\n a\n\n\n[two]\n c\n\n[one]\n b\n\n\n[two]\n d\n\n"
    assert "[two: cut at --max-new-tokens]" in err


def test_on_a_terminal_two_answers_stand_in_columns(capsys):
    side_by_side(["one", "two"], [iter(["a", "a long [b]answer[/b]"]), iter(["short"])])
    last = capsys.readouterr().out.splitlines()
    assert any("a long [b]answer[/b]" in line and line.rstrip("│ ").endswith("short") for line in last)
    assert any("one" in line and "two" in line for line in last)


class Interrupting(io.StringIO):
    """Standard output on which a person presses Ctrl-C as soon as something is written."""

    def write(self, text):
        if text and not self.getvalue():
            super().write(text)
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(text)


def test_control_c_ends_the_answer_and_not_the_program(monkeypatch, capsys):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    one, sampler = talker((" there was a little girl", "length"), (" b", "length"))
    try:
        monkeypatch.setattr("sys.stdout", Interrupting())
        assert talk(["Once", ", she"], one, monkeypatch=monkeypatch)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "[interrupted]" in capsys.readouterr().err
    assert [turn.line for turn in one.turns] == ["Once", ", she"] and one.turns[0].answer in " there was a little"
    assert sampler.prompts[1].endswith(f"Once{one.turns[0].answer}, she")


def test_a_line_that_cannot_be_answered_is_taken_back_and_the_conversation_goes_on(monkeypatch, capsys):
    one, sampler = talker((" a", "stop"), (" b", "stop"), template="hh", name="runs/one")
    assert not talk(["x", "word " * POSITIONS, "y"], one, monkeypatch=monkeypatch)
    assert [turn.line for turn in one.turns] == ["x", "y"] and len(sampler.prompts) == 2
    err = capsys.readouterr().err
    assert "more than the 200 positions of runs/one; /undo" in err and "--max-new-tokens 12" in err and "taken back" in err


def test_a_stop_string_is_never_shown(monkeypatch, capsys):
    one, _ = talker((" there was a little girl", "string"), strings=(" little girl",))
    assert talk(["Once"], one, monkeypatch=monkeypatch)
    assert capsys.readouterr().out == " there was a\n\n"


@pytest.mark.parametrize(
    ("text", "settled"),
    [("abc", "abc"), ("ab\ufffd", "ab"), ("abEN", "ab"), ("abE", "ab"), ("abEx", "abEx"), ("ab\n", "ab"), ("E", ""), ("", "")],
)
def test_what_may_still_change_is_not_settled(text, settled):
    assert Stopping(9, strings=("END", "\n\n")).settled(text) == settled


def test_what_would_steer_a_terminal_is_not_printed():
    assert printable("a\x1b[2Jb\r\n\tü\U0001f469\u200d\U0001f4bb") == "a\ufffd[2Jb\ufffd\n\tü\U0001f469\u200d\U0001f4bb"

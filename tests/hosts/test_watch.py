"""When a process ends because of another one or of a step that hangs, with stand-ins for time and for the first process's memory."""

import json
import sys
import threading
import time

import pytest

from jaxalign.hosts import watch
from jaxalign.hosts.compiler import compiling
from jaxalign.hosts.watch import LOST_CODE, Watch


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Memory:
    """A channel of one of several processes over a dict that all of them share."""

    def __init__(self, number=0, count=2, texts=None):
        self.number, self.count, self.texts = number, count, {} if texts is None else texts

    def put(self, key, text):
        self.texts[key] = text

    def get(self, key):
        return self.texts.get(key)

    def below(self, folder):
        return {key.removeprefix(f"{folder}/"): text for key, text in list(self.texts.items()) if key.startswith(f"{folder}/")}


def made(number=0, count=3, **options):
    clock = Clock()
    return Watch(Memory(number, count), clock=clock, **{"lost_s": 60, "stall_s": 600, **options}), clock


def words(beat, place="step 7"):
    return json.dumps([beat, place])


def later(subject, clock, seconds, beats=None, ends=None):
    """The verdict after so many seconds, in which this process went on and heard the same again and again."""
    end = None
    for _ in range(int(seconds)):
        clock.now += 1
        if beats is not None:
            subject.hear(beats, ends or {})
        end = end or subject.verdict()
    return end


def test_a_silent_process_is_named_with_where_it_was_last():
    subject, clock = made()
    subject.at("step 8")
    beats = {"0": words(1), "1": words(1), "2": watch.LEFT}
    assert later(subject, clock, 59, beats) is None
    end = later(subject, clock, 3, beats)
    assert end.stacks and "process 1 has not answered for 61 s; it was last at step 7." in end.text
    assert "this one, process 0 of 3, is at step 8, for 6" in end.text


@pytest.mark.parametrize(("steps", "code"), [(0, 1), (1, LOST_CODE)])
def test_launchers_start_again_only_what_has_made_a_step(steps, code):
    subject, clock = made()
    for _ in range(steps):
        subject.stepped()
    assert later(subject, clock, 70, {"1": words(1)}).code == code


@pytest.mark.parametrize("moment", ["lost", "hangs"])
def test_what_would_come_again_is_not_started_again_and_the_last_words_say_why(moment):
    subject, clock = made()
    subject.stepped()
    subject.stepped("All starts were from step 30.")
    beats = {"1": words(1)} if moment == "lost" else None
    subject.at("step 31")
    if moment == "hangs":
        subject._lost_s = 9999
    end = later(subject, clock, 700, beats)
    assert end.code == 1 and end.text.endswith(". All starts were from step 30.")


def test_who_speaks_or_has_left_is_not_lost():
    subject, clock = made()
    for beat in range(10):
        assert later(subject, clock, 30, {"1": words(beat), "2": watch.LEFT}) is None


def test_a_process_that_was_stopped_itself_blames_nobody():
    subject, clock = made(number=1)
    assert later(subject, clock, 10, {"0": words(1)}) is None
    clock.now += 1000
    assert subject.verdict() is None
    assert later(subject, clock, 50) is None and "process 0 has not answered" in later(subject, clock, 20).text


def test_others_than_the_first_listen_to_the_first_alone():
    subject, clock = made(number=1)
    for beat in range(4):  # the third process was heard once, when it was asked where it is
        assert later(subject, clock, 30, {"0": words(beat), "2": words(1)}) is None


def test_the_error_of_another_process_ends_this_one_with_its_code():
    subject, clock = made()
    told = {"1": watch.End(3, "OSError: the disk is full").line()}
    assert later(subject, clock, 10, {"1": words(1)}, told) is None  # this one's own error may come first
    end = later(subject, clock, 5, {"1": words(1)}, told)
    assert (end.code, end.stacks) == (3, False) and "process 1 ended: OSError: the disk is full (this one" in end.text


def test_a_step_that_hangs_is_named_with_who_is_elsewhere():
    subject, clock = made()
    subject.stepped()
    subject.at("step 12")
    moving = [{"0": words(beat, "step 12"), "1": words(beat, "the batch of step 12"), "2": words(beat, "step 12")} for beat in range(21)]
    for beats in moving[:20]:
        assert later(subject, clock, 30, beats) is None
    end = later(subject, clock, 5, moving[20])
    assert end.code == LOST_CODE and end.stacks
    assert "process 0 of 3, is at step 12, for 60" in end.text
    assert "train.stall_minutes=10; process 1 is at the batch of step 12." in end.text


def test_places_without_a_limit_and_processes_alone():
    clock = Clock()
    subject = Watch(None, stall_s=600, clock=clock)
    for place, limited in (("the rows", False), ("step 1", True)):
        subject.at(place, limited=limited)
        end = later(subject, clock, 700)
        assert (end is not None) == limited
    assert "nothing has moved: this process is at step 1" in end.text
    assert later(Watch(None, stall_s=None, clock=clock), clock, 9999) is None


def test_the_time_in_the_compiler_is_left_out(monkeypatch):
    clock = Clock()
    subject = Watch(None, stall_s=600, clock=clock)
    subject.at("step 0")
    monkeypatch.setattr(watch, "compiling", lambda frame: True)
    assert later(subject, clock, 1000) is None
    monkeypatch.setattr(watch, "compiling", lambda frame: False)
    subject.compiled(1000)
    assert later(subject, clock, 300) is None and "step 0" in later(subject, clock, 400).text


def test_what_was_compiled_is_left_out_and_the_frames_of_a_thread_that_runs_are_not_looked_at(monkeypatch):
    clock = Clock()
    subject = Watch(None, stall_s=600, clock=clock)
    subject.at("step 0")
    monkeypatch.setattr(watch, "compiling", lambda frame: pytest.fail("it was looked at"))
    assert later(subject, clock, 500) is None
    subject.compiled(450)
    assert later(subject, clock, 500) is None
    subject.compiled(9999)  # no place begins in the future
    assert later(subject, clock, 600) is None
    monkeypatch.setattr(watch, "compiling", lambda frame: False)
    assert "step 0" in later(subject, clock, 1).text


def test_the_watch_hears_of_programs_that_are_compiled_while_it_watches(monkeypatch):
    import jax

    heard, subject = [], Watch(None)
    monkeypatch.setattr(subject, "compiled", heard.append)
    with watch.watching(subject):
        jax.jit(lambda x: x * 3.25 + 0.75)(1.0)
    assert heard and all(seconds > 0 for seconds in heard)
    heard.clear()
    jax.jit(lambda x: x * 4.25 + 0.75)(1.0)
    assert not heard


def test_a_thread_in_the_compiler_is_seen():
    import jax
    import jax.numpy as jnp

    def seen(size):
        thread = threading.Thread(target=lambda: jax.jit(lambda x: jnp.sort(jnp.sin(x)) @ x)(jnp.arange(size)).block_until_ready())
        thread.start()
        seen = False
        while thread.is_alive():
            seen = seen or compiling(sys._current_frames().get(thread.ident))
            time.sleep(0.0005)
        return seen

    assert any(seen(size) for size in (37.0, 38.0, 39.0, 41.0))  # looked at from time to time: one compiled program may slip through
    assert not compiling(sys._current_frames()[threading.get_ident()])


def watched(texts, codes, number, **options):
    subject = Watch(Memory(number, 2, texts), lost_s=0.6, end=lambda code: codes.append((number, code)), **options)
    subject.begin()
    return subject


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


def test_threads_tell_hear_and_end_the_process_with_its_stacks(capfd):
    texts, codes = {}, []
    first, second = (watched(texts, codes, number) for number in range(2))
    second.at("step 3")
    wait_for(lambda: "step 3" in texts.get("beat/1", "") and 1 in first._heard)
    second._closed.set()  # as if it were stopped
    wait_for(lambda: codes)
    assert codes == [(0, 1)]
    error = capfd.readouterr().err
    assert "process 1 has not answered" in error and "most recent call first" in error and "test_watch.py" in error
    assert "process 1 has not answered" in texts["end/0"]


def test_an_error_reaches_the_others_before_its_process_leaves(capfd):
    texts, codes = {}, []
    first, second = (watched(texts, codes, number) for number in range(2))
    wait_for(lambda: "beat/1" in texts and 1 in first._heard and 0 in second._heard)
    second.fail(1, "ValueError: no such row")
    wait_for(lambda: len(codes) == 2)
    assert sorted(codes) == [(0, 1), (1, 1)]
    assert "process 1 ended: ValueError: no such row" in capfd.readouterr().err


def test_an_error_that_comes_of_the_end_of_a_process_does_not_change_its_code(capfd):
    texts, codes = {}, []
    first, _ = watched(texts, codes, 0, stall_s=0.3), watched(texts, codes, 1)
    first.stepped()
    first.at("step 1")
    wait_for(first._closed.is_set)
    first.fail(1, "ValueError: connection closed by peer")  # by the other process, which has heard of it
    wait_for(lambda: len(codes) == 2)
    assert sorted(codes) == [(0, LOST_CODE), (1, LOST_CODE)] and "nothing has moved" in texts["end/0"]


def test_a_process_alone_is_ended_by_its_own_error_in_the_usual_way():
    with watch.watching(Watch(None)) as channel:
        assert channel is None and watch.fail(1, "x") == 1
    watch.at("nowhere")
    watch.barrier("nothing")
    assert watch.fail(2, "x") == 2

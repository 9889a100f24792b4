"""A judge behind a local endpoint that is fair, talks nonsense, prefers a place, is slow, is busy, or refuses."""

import contextlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
import re
import socket
import threading
import time

import numpy as np
import pytest

from jaxalign import annotate
from jaxalign.scoring import asking, grading, rewards
from jaxalign.scoring import judge as judges
from jaxalign.scoring.faults import Fault

KEY = "sk-secret-0123456789"


class Server(ThreadingHTTPServer):
    """Answers with what `reply` returns for (answer A, answer B): the text of a reply, or (status, body)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.requests, self.keys, self.headers = longer, [], [], {}

    def handle_error(self, request, client_address):
        pass  # a client that did not wait

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        self.server.keys.append(self.headers["Authorization"])
        answer = self.server.reply(*re.findall(r"\[Answer [AB]\]\n(.*?)\n\[End", body["messages"][1]["content"], re.DOTALL))
        status, text = answer if isinstance(answer, tuple) else (200, json.dumps({"choices": [{"message": {"content": answer}}]}))
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


def longer(first, second):
    return f"Reasons.\n[[{'A' if len(first) > len(second) else 'B' if len(first) < len(second) else 'C'}]]"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def make(server, tmp_path):
    return lambda **options: judges.make(dict(url=server.url, model="m", cache=str(tmp_path), wait_s=0.01, timeout_s=5.0) | options)


FIRSTS, SECONDS = ["long one", "b", "same", "ab"], ["one", "much longer", "same", "xy"]
PROMPTS = ["p", [{"role": "user", "content": "q"}], "r", "s"]


def test_a_fair_judge_is_asked_in_both_orders_and_equal_answers_are_a_tie_without_asking(server, make):
    judge = make()
    assert judge(PROMPTS, FIRSTS, SECONDS).tolist() == [1, 0, 0.5, 0.5]
    assert len(server.requests) == 6 and set(server.keys) == {f"Bearer {KEY}"}
    assert server.requests[0]["temperature"] == 0 and server.requests[0]["model"] == "m"
    assert judge.first_place()[0] == 0.5 and judge.lines() == ["judge m: 0 of 3 verdicts turned with the order of the answers: ties"]


def test_replies_are_kept_by_content_and_the_key_is_nowhere_on_disk(server, make, tmp_path):
    first = make()(PROMPTS, FIRSTS, SECONDS)
    server.reply = lambda first, second: pytest.fail("asked again")
    np.testing.assert_array_equal(make()(PROMPTS, FIRSTS, SECONDS), first)
    assert len(server.requests) == 6
    server.reply = longer
    make(model="other")(PROMPTS[:1], FIRSTS[:1], SECONDS[:1])
    make(instructions="Be strict.")(PROMPTS[:1], FIRSTS[:1], SECONDS[:1])
    assert len(server.requests) == 10
    files = list(tmp_path.iterdir())
    assert len(files) == 10 and not any(KEY in file.read_text() or KEY in file.name for file in files)
    for file in files:
        file.write_text("{")  # damaged: asked again
    np.testing.assert_array_equal(make()(PROMPTS, FIRSTS, SECONDS), first)
    assert len(server.requests) == 16


def test_a_judge_that_prefers_whatever_stands_first_gives_ties_and_is_told(server, make):
    server.reply = lambda first, second: "[[A]]"
    judge = make(parallel=4)
    verdict = judge([f"p{i}" for i in range(20)], ["a"] * 20, ["b"] * 20)
    share, interval = judge.first_place()
    assert (verdict == 0.5).all() and share == 1 and interval.low > 0.8
    turned, bias = judge.lines()
    assert "20 of 20 verdicts turned" in turned and "prefers what stands first: first 100.0% of the time (0.839 to 1.000)" in bias


@pytest.mark.parametrize("reply", ["I like both.", "", "[[A]] or [[B]]", None, "[[D]]"])
def test_nonsense_is_no_verdict_and_is_not_kept(server, make, tmp_path, reply):
    server.reply = lambda first, second: reply
    judge = make()
    assert np.isnan(judge(PROMPTS[:2], FIRSTS[:2], SECONDS[:2])).all() and not list(tmp_path.iterdir())
    assert judge.lines()[0].startswith("judge m: 2 of 2 samples left out by unreadable; first is the prompt 'p': the reply")


@pytest.mark.parametrize(
    "reply, letter",
    [
        ("[[A]] looks good, but B is right.\n[[B]]\n", "B"),
        ("B", "B"),
        ("**A**", "A"),
        ("[[ C ]]", "C"),
        ("A or B?", None),
        ("[[B]]\nDone.", "B"),
    ],
)
def test_the_last_line_of_a_reply_decides(reply, letter):
    assert judges.verdict_of(reply) == letter


@pytest.mark.parametrize("status", [200, 500])
def test_a_reply_that_is_nested_too_deeply_is_a_fault(server, make, status):
    server.reply = lambda first, second: (status, "[" * 200_000)
    judge = make(retries=0, parallel=1)
    assert np.isnan(judge(["p"], ["a"], ["b"])).all() and judge.faults.counts == {"malformed" if status == 200 else "overloaded": 1}


@pytest.mark.parametrize("reply", [f"key {KEY}", f"key {KEY}\n[[A]]", (400, "x" * 190 + KEY), (200, "x" * 190 + KEY)])
def test_a_key_that_the_server_repeats_is_neither_told_nor_kept_nor_cut_into(server, make, tmp_path, reply):
    server.reply = lambda first, second: reply
    judge = make(retries=0)
    judge(["p"], ["a"], ["b"])
    told = "".join(judge.lines()) + "".join(file.read_text() for file in tmp_path.iterdir())
    assert KEY[:6] not in told and ("***" in told)


def test_the_body_of_an_error_that_comes_a_byte_at_a_time_is_not_waited_for(make):
    class Dripping:
        reason = "busy"

        def read1(self, count):
            time.sleep(0.02)
            return b" "

    start = time.monotonic()
    assert make().endpoint._message(Dripping(), start + 0.1) == "busy" and time.monotonic() - start < 5


def test_headers_that_come_a_byte_at_a_time_are_not_waited_for(make):
    def drip(listening):
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            for _ in range(200):
                connection.send(b"H")
                time.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, args=(listening,), daemon=True).start()
        judge = make(url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", timeout_s=0.2, retries=0)
        start = time.monotonic()
        with pytest.raises(Fault, match=r"no reply within 0\.2 s"):
            judge.endpoint.ask([{"role": "user", "content": "q"}], keep=bool)
        assert time.monotonic() - start < 2


def test_one_order_without_a_verdict_is_no_verdict(server, make):
    server.reply = lambda first, second: "[[A]]" if first == "good" else "hm"
    judge = make()
    assert np.isnan(judge(["p"], ["good"], ["bad"])).all() and judge.faults.counts == {"unreadable": 1}


@pytest.mark.parametrize("failure", [(503, "busy"), (429, ""), (200, "<html>"), (200, '{"choices": []}')])
def test_a_busy_server_is_asked_again(server, make, failure):
    left = [failure] * 2
    server.reply = lambda first, second: left.pop() if left else longer(first, second)
    judge = make(parallel=1)
    assert judge(PROMPTS[:1], FIRSTS[:1], SECONDS[:1]).tolist() == [1] and len(server.requests) == 4 and not judge.faults.counts


def test_the_server_says_how_long_to_wait(server, make):
    left = [(429, "slow down")]
    server.reply = lambda first, second: left.pop() if left else longer(first, second)
    server.headers["Retry-After"] = "0"
    start = time.monotonic()
    assert make(parallel=1, wait_s=30.0)(["p"], ["ab"], ["c"]).tolist() == [1] and time.monotonic() - start < 5


@pytest.mark.parametrize(
    "reply, rule, words",
    [
        (lambda *answers: time.sleep(1) or "[[A]]", "timeout", "no reply within 0.2 s"),
        (lambda *answers: (500, "on fire"), "overloaded", r"HTTP 500: on fire \(3 tries\)"),
        (
            lambda *answers: (401, json.dumps({"error": {"message": f"wrong key: {KEY}"}})),
            "refused",
            r"HTTP 401: wrong key: \*\*\* \(the key in",
        ),
        (lambda *answers: (307, ""), "refused", "HTTP 307"),
    ],
)
def test_a_judge_that_fails_for_good_is_given_up_and_told(server, make, reply, rule, words):
    server.reply = reply
    judge = make(timeout_s=0.2 if rule == "timeout" else 10, retries=2, parallel=2)
    count = 50
    assert np.isnan(judge([f"p{i}" for i in range(count)], ["a"] * count, ["b"] * count)).all()
    assert judge.faults.counts == {rule: count} and len(server.requests) <= 12
    assert re.search(words, judge.lines()[0]) and KEY not in "".join(judge.lines())
    with pytest.raises(ValueError, match=f"the judge m at {server.url} does not answer") as raised:
        judge.check()
    assert KEY not in str(raised.value)


def test_without_a_server_and_without_a_key_the_message_says_so(make, monkeypatch, server):
    judge = make(url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(ValueError, match="unreachable|refused|is http://127.0.0.1:9/v1 right"):
        judge.check()
    monkeypatch.delenv("OPENAI_API_KEY")
    server.reply = lambda first, second: (401, "who are you?")
    with pytest.raises(ValueError, match=r"who are you\? \(the key in \$OPENAI_API_KEY is not set\)"):
        make().check()
    assert server.keys == [None]


@pytest.mark.parametrize(
    "spec, words",
    [
        ("gpt", "MODEL@https://HOST/v1"),
        (["m"], "not list"),
        (dict(url="http://h/v1"), "needs model"),
        (dict(url="http://h/v1", model="m", ky="X"), "no option 'ky'"),
        (dict(url="h/v1", model="m"), "https://HOST/v1"),
        (dict(url="http://user:word@h/v1", model="m"), "holds a user, a password or a query"),
        (dict(url=f"http://h/v1?key={KEY}", model="m"), "holds a user, a password or a query"),
        (dict(url="http://h/v1", model="m", key_from=KEY), "the name of an environment variable"),
        (dict(url="http://h/v1", model="m", retries=-1), "retries=-1"),
        (dict(url="http://h/v1", model="m", timeout_s="5"), "timeout_s='5'"),
    ],
)
def test_a_spec_that_cannot_be_is_an_error_without_what_is_secret(spec, words):
    with pytest.raises(ValueError, match=words) as raised:
        judges.make(spec)
    assert KEY not in str(raised.value) and "word@" not in str(raised.value)


def test_a_key_that_no_header_may_hold_is_an_error_without_the_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nX: y")
    with pytest.raises(ValueError, match=r"the key in \$OPENAI_API_KEY holds") as raised:
        judges.make("m@http://127.0.0.1:9/v1")
    assert KEY not in str(raised.value)


def test_annotate_mends_labels_by_a_judge_and_tells_of_one_that_prefers_a_place(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXALIGN_CACHE", str(tmp_path / "cache"))
    rows = [dict(prompt=f"q{i}", chosen="a", rejected="bb") for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--rows", str(tmp_path / "rows.jsonl"), "--relabel"]
    assert annotate.main([*arguments, "--judge", f"fair@{server.url}", "--out", str(tmp_path / "fair.jsonl")]) == 0
    assert "0 pairs as they were, 8 turned around, 0 ties" in capsys.readouterr().out
    assert json.loads((tmp_path / "fair.jsonl").read_text().splitlines()[0]) == dict(prompt="q0", chosen="bb", rejected="a")
    server.reply = lambda first, second: "[[A]]"
    assert annotate.main([*arguments, "--judge", f"first@{server.url}", "--out", str(tmp_path / "first.jsonl")]) == 1
    out = capsys.readouterr().err
    assert "8 of 8 verdicts turned with the order" in out and "it prefers what stands first" in out and "8 ties" in out
    server.reply = lambda first, second: (404, "no such model")
    assert annotate.main([*arguments, "--judge", f"none@{server.url}", "--out", str(tmp_path / "none.jsonl")]) == 1
    assert "the judge none at" in (error := capsys.readouterr().err) and "HTTP 404: no such model" in error
    assert not (tmp_path / "none.jsonl").exists()


def test_a_judge_grades_single_answers_as_a_reward(server, tmp_path):
    replies = ["Fine.\n[[7]]", "no grade", "[[11]]", "3"]
    server.reply = lambda: replies.pop(0)
    spec = dict(kind="judge", model=f"m@{server.url}", cache=str(tmp_path), parallel=1)
    reward = rewards.make(spec)
    scores = reward(["p"] * 4, list("abcd"), [{}] * 4)
    assert scores[[0, 3]].tolist() == [7, 3] and np.isnan(scores[1:3]).all()
    assert reward.faults.counts == {"unreadable": 1, "out_of_range": 1}
    asked = server.requests[0]["messages"]
    assert asked[0]["content"] == grading.INSTRUCTIONS and "[Answer]\na\n" in asked[1]["content"] and "[[10]]" in asked[1]["content"]
    replies.append("[[5]]")
    assert rewards.make(spec)(["p"] * 2, ["a", "b"], [{}] * 2).tolist() == [7, 5] and len(server.requests) == 5  # grades are kept
    server.reply = lambda: (401, "who are you?")
    with pytest.raises(ValueError, match="the judge m at .* does not grade: HTTP 401"):
        rewards.make(spec).check([])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("judge:m", "the judge 'm' is not of the form MODEL@https://HOST/v1"),
        (dict(kind="judge", model="m@http://x/v1", lowest=10), "must be below highest=10"),
    ],
)
def test_a_grade_has_a_model_and_a_range(spec, words):
    with pytest.raises(ValueError, match=words):
        rewards.make(spec)


def test_several_processes_ask_once_and_all_are_told(monkeypatch):
    sent, asked = [], []

    def ask(question):
        asked.append(question)
        if question == "late":
            raise Fault("timeout", "no reply")
        return 1.0

    def refuse():
        raise ValueError("no such host")

    monkeypatch.setattr("jax.process_count", lambda: 2)
    for number in (0, 1):
        monkeypatch.setattr("jax.process_index", lambda number=number: number)
        hear = (lambda x: sent.append(x) or x) if number == 0 else (lambda x: sent.pop(0))
        monkeypatch.setattr(asking.multihost_utils, "broadcast_one_to_all", hear)
        one, other = asking.ask_all(ask, ["soon", "late"], parallel=1, doing="", quiet=True)
        assert one == 1.0 and (other.rule, str(other)) == ("timeout", "no reply")
        with pytest.raises(ValueError, match="no such host"):
            asking.from_first(refuse)
    assert asked == ["soon", "late"] and not sent

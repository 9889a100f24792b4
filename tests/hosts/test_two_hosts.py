"""One of two real processes is killed, stopped or late: the other ends in bounded time and names it, with its own stacks."""

import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

import pytest

from jaxalign.hosts.watch import LOST_CODE

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("hosts_worker.py")


def both(**variables):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parents[2]), "XLA_FLAGS": "", **variables}
    command = [sys.executable, str(WORKER)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen([*command, str(number), port], env=environment, **pipes) for number in range(2)]


def end_of(processes, number, *, after=lambda: None):
    """(exit code, log, seconds) of a process, once both have made some steps; the other one is killed at last."""
    try:
        for process in processes:
            assert "ready\n" in iter(process.stdout.readline, "")
        after()
        began = time.monotonic()
        log = processes[number].communicate(timeout=60)[1]
        return processes[number].returncode, log, time.monotonic() - began
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(("who", "how"), [(1, signal.SIGKILL), (0, signal.SIGSTOP), (1, signal.SIGSTOP)])
def test_the_other_process_of_one_that_is_killed_or_stopped(who, how):
    processes = both()
    code, log, seconds = end_of(processes, 1 - who, after=lambda: processes[who].send_signal(how))
    assert code == LOST_CODE and seconds < 30, log
    assert f"process {who} has not answered for" in log and "; it was last at" in log and f"this one, process {1 - who} of 2," in log
    if how == signal.SIGSTOP:
        assert "hosts_worker.py" in log.rpartition("Thread 0x")[2]  # the stack of the main thread
    else:
        assert "Gloo" in log or "barrier" in log  # what the collective said of it


@pytest.mark.parametrize(("late", "place"), [("collective", "step 21"), ("barrier", "the barrier 'every step'")])
def test_the_other_process_of_one_that_is_late(late, place):
    code, log, seconds = end_of(both(LATE=late), 0)
    assert code == LOST_CODE and seconds < 30, log
    assert f"is at {place}, for 2" in log and "process 1 is at a long nap" in log and "hosts_worker.py" in log


def test_where_the_first_process_is_killed_jax_ends_the_other_with_a_cause():
    processes = both()
    code, log, seconds = end_of(processes, 1, after=processes[0].kill)
    assert code in (LOST_CODE, -signal.SIGABRT) and seconds < 30, log
    assert "leader task was preempted/died" in log or "process 0 has not answered" in log

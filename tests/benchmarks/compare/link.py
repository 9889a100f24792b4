"""How the command and the process of a side speak: lines of JSON. A process of its own has its own peak memory, and its own threads."""

import json
import os
from pathlib import Path
import resource
import subprocess
import sys
import time


class Link:
    """The side's end: what libraries print goes to the error stream, so that the lines on the output are answers alone."""

    def __init__(self):
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def ask(self) -> int:
        """How many further steps are wanted; the process ends where no more are."""
        line = sys.stdin.readline()
        steps = json.loads(line)["steps"] if line else 0
        if not steps:
            self._out.flush()
            os._exit(0)  # libraries hang at their ends
        return steps

    def say(self, **answer) -> None:
        """Sends an answer."""
        self._out.write(json.dumps(answer) + "\n")


class Clock:
    """Wall and CPU seconds, of all threads, since it was made."""

    def __init__(self):
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()

    def read(self) -> dict[str, float]:
        """{"wall", "cpu"}."""
        return {"wall": time.perf_counter() - self._wall, "cpu": cpu_seconds() - self._cpu}


def cpu_seconds() -> float:
    """CPU seconds of this process so far, of all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_rss() -> int:
    """Bytes of memory that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Side:
    """The command's end: a process that is asked for blocks of steps, and waits in between.

    Args:
      name: a module of this package with a function `serve(link, asked)`.
      asked: what it is to run, see `worker`.
      log: file for what its libraries print.
    """

    def __init__(self, name: str, asked: dict, log: Path):
        self.name, self._log = name, open(log, "w")  # noqa: SIM115 (closed with the process)
        command = [sys.executable, "-m", "tests.benchmarks.compare.worker", name, json.dumps(asked)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1)

    def hear(self) -> dict:
        """The next answer.

        Raises:
          RuntimeError: the process ended without one.
        """
        line = self._process.stdout.readline()
        if not line:
            self._log.flush()
            tail = Path(self._log.name).read_text().strip()[-3000:]
            raise RuntimeError(f"side {self.name!r} ended with exit code {self._process.wait()}; its last lines:\n{tail}")
        return json.loads(line)

    def steps(self, count: int) -> dict:
        """Runs steps: {"losses", "wall", "cpu", "memory", ...}."""
        self._process.stdin.write(json.dumps({"steps": count}) + "\n")
        return self.hear()

    def close(self) -> None:
        """Ends the process."""
        try:
            self._process.stdin.close()
            self._process.wait(20)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        self._log.close()

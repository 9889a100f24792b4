"""Reward functions of the user, FILE.py:name, called in a process of their own with a time limit.

A thread cannot be ended, and a loop inside a C extension holds up its whole process: a process of its own can hang, or die, alone.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing.connection import Pipe
import os
from pathlib import Path
import subprocess
import sys
from typing import Any
import weakref

import jaxalign
from jaxalign import paths
from jaxalign.scoring import asking
from jaxalign.scoring.faults import Fault, Faults

START_S = 120  # for the imports of the user's file
PATIENCE = 3  # single calls in a row that may take too long before the rest of a batch is given up
STDERR = 2


class HostFunction:
    """`function(prompts, completions, metadata, **options)` of a file, called on the host.

    The samples of a batch are given in one call. Where that fails they are given one by one, so that a fault is that of one sample.

    Args:
      file: a Python file.
      name: of the function.
      options: further keyword arguments.
      timeout_s: of one call.

    Raises:
      FileNotFoundError, ValueError: there is no such file or function, it cannot be imported, or does not take these arguments.
    """

    def __init__(self, file: str, name: str, *, options: Mapping[str, Any], timeout_s: float):
        path = paths.resolve(file)
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {file}; {paths.nearby(path)}")
        self._unexplained = Faults()  # of calls with several samples, each of which alone has a score
        self._target, self._seconds = (str(path.resolve()), name, dict(options), timeout_s), timeout_s
        self._process = self._connection = None
        self._start()

    def __call__(self, prompts: Sequence, completions: Sequence[str], metadata: Sequence[Mapping]) -> list[float | Fault]:
        """A number or a fault for every sample: "exception", "timeout", "died", "wrong_type" or "wrong_shape".

        With several processes the first one alone calls the function, which may cost money or answer otherwise each time.
        """
        return asking.scores_from_first(partial(self._scores, prompts, completions, metadata))

    def _scores(self, prompts, completions, metadata):
        samples = [list(column) for column in (prompts, completions, metadata)]
        count = len(completions)
        whole = self._call(samples)
        if not isinstance(whole, Fault):
            return whole
        if count == 1:
            return [whole]
        scores: list[float | Fault] = []
        for number in range(count):
            last = scores[-PATIENCE:]
            if len(last) == PATIENCE and all(isinstance(score, Fault) and score.rule == "timeout" for score in last):
                given_up = Fault("timeout", f"{PATIENCE} samples in a row took more than {self._seconds:g} s, so no more were tried.")
                return scores + [given_up] * (count - number)
            one = self._call([[column[number]] for column in samples])
            scores.append(one if isinstance(one, Fault) else one[0])
        if not any(isinstance(score, Fault) for score in scores):
            self._unexplained.add(1, [(f"{count:,} samples", whole)])
        return scores

    def remarks(self) -> dict[str, str]:
        """Rule -> a line, where calls with several samples failed by it though each sample alone has a score, as of one mean for all."""
        calls = self._unexplained
        return {
            rule: f"{count:,} calls with several samples failed by {rule}, so each sample was scored alone; first is {calls.first[rule]}"
            for rule, count in calls.counts.items()
        }

    def _start(self):
        ours, theirs = Pipe()
        root = str(Path(jaxalign.__file__).parent.parent)
        # jax of a reward function stays off the accelerator, which one process alone can hold
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "jaxalign.scoring.worker", str(theirs.fileno())]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=STDERR,  # what the function prints is no output of ours
            start_new_session=True,  # Ctrl-C is for the run, which may want to end in order
        )
        theirs.close()
        self._connection = ours
        self._end = weakref.finalize(self, _end, self._process, ours)
        ours.send(self._target)
        problem = self._receive(START_S)
        if isinstance(problem, Fault):
            file, name, *_ = self._target
            raise ValueError(f"{file}:{name} could not be loaded: {problem}")
        if problem is not None:
            self._end()
            raise ValueError(problem)

    def _call(self, samples) -> list[float] | Fault:
        if not self._end.alive:
            try:
                self._start()
            except ValueError as error:
                return Fault("died", f"it was started again and {error}")
        try:
            self._connection.send(samples)
        except OSError as error:
            self._end()
            return Fault("died", f"its process ended before the call: {error}.")
        answer = self._receive(self._seconds)
        return Fault(*answer) if isinstance(answer, tuple) else answer

    def _receive(self, seconds):
        """The next answer, or a fault, after which the process is ended."""
        try:
            if self._connection.poll(seconds):
                return self._connection.recv()
            fault = Fault("timeout", f"it took more than {seconds:g} s and was ended; timeout_s of the reward allows more.")
        except (EOFError, OSError):
            fault = Fault("died", f"its process ended with exit code {self._process.wait()}.")
        self._end()
        return fault


def _end(process, connection):
    connection.close()
    process.kill()
    process.wait()

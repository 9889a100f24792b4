"""Many questions to an endpoint: several at a time, given up where it is gone, and by the first process alone."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
import json
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from jaxalign.data import progress
from jaxalign.scoring.faults import Fault, Prompt

PATIENCE = 3  # requests in a row that fail for good before the others are given up
HOPELESS = ("unreachable", "timeout", "overloaded", "malformed", "refused")  # faults that the next request is likely to share


def ask_all(ask: Callable[[Any], float], questions: Sequence, *, parallel: int, doing: str, quiet: bool) -> list[float | Fault]:
    """ask(question) of every question in order, or the Fault that it raised; every process gets what the first one was told.

    Args:
      ask: raises Fault.
      parallel: questions at a time.
      doing: what the progress bar says.
      quiet: show no progress.
    """

    def answers():
        patience, replies = _Patience(), []
        with ThreadPoolExecutor(parallel) as pool, progress.bar(len(questions), doing, quiet=quiet) as advance:
            for reply in pool.map(lambda question: patience.ask(ask, question), questions):
                replies.append(reply)
                advance(1)
        return replies

    return scores_from_first(answers)


def scores_from_first(make: Callable[[], Sequence[float | Fault]]) -> list[float | Fault]:
    """What make() gives in the first process, in every process: numbers and faults."""
    plain = from_first(lambda: [[score.rule, str(score)] if isinstance(score, Fault) else score for score in make()])
    return [Fault(*score) if isinstance(score, list) else score for score in plain]


def from_first(make: Callable[[], Any]) -> Any:
    """What make() gives in the first process, in every process; values that JSON can write.

    Raises:
      ValueError: make() failed, in every process.
    """
    if jax.process_count() == 1:
        return make()
    made: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            made = {"value": make()}
        except Exception as error:  # else the others would wait for ever
            made = {"error": str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"}
    text = json.dumps(made).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    letters = multihost_utils.broadcast_one_to_all(np.frombuffer(text[:size].ljust(size), np.uint8))
    made = json.loads(bytes(np.asarray(letters, np.uint8)))
    if "error" in made:
        raise ValueError(made["error"])
    return made["value"]


def written(prompt: Prompt) -> str:
    """A prompt as a judge reads it."""
    if isinstance(prompt, str):
        return f"[Question]\n{prompt}\n[End of the question]"
    turns = "\n\n".join(f"{turn.get('role', 'user')}: {turn.get('content', '')}" for turn in prompt)
    return f"[Conversation]\n{turns}\n[End of the conversation]"


class _Patience:
    """Asks until several requests in a row have failed for good, and then no more."""

    def __init__(self):
        self._lock, self._failed, self._last = threading.Lock(), 0, None

    def ask(self, function: Callable[[Any], float], argument) -> float | Fault:
        if self._failed >= PATIENCE:
            return Fault(self._last.rule, f"not asked, after {PATIENCE} requests in a row had failed: {self._last}")
        try:
            answer = function(argument)
        except Fault as fault:
            answer = fault
        with self._lock:
            hopeless = isinstance(answer, Fault) and answer.rule in HOPELESS
            self._failed = self._failed + 1 if hopeless else 0
            self._last = answer if hopeless else self._last
        return answer

"""A request to stop: SIGTERM (a pre-emption, a scheduler's end) and Ctrl-C. The loop saves and ends at the next step."""

import signal
import sys

import jax

from jaxalign.hosts import watch

CHECK_EVERY_STEPS = 10  # of several processes, which must agree: to wait for each other each step would keep the hosts from running ahead


class StopRequest:
    """Listens inside its `with` block. A second signal kills."""

    def __init__(self):
        self._asked = self._agreed = False
        self._times = 0  # that the processes asked each other

    def __enter__(self):
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number, frame) -> None:
        self._asked = True
        signal.signal(number, signal.SIG_DFL)
        print("\nstopping at the next step, to save first; a second signal stops at once", file=sys.stderr)

    def requested(self, step: int = 0) -> bool:
        """Whether any process was asked; the same answer on all of them, so that they leave at the same step.

        Every process must call it with the same steps; among several processes only every CHECK_EVERY_STEPS-th asks the others.
        """
        if jax.process_count() == 1:
            return self._asked
        if step % CHECK_EVERY_STEPS == 0 and not self._agreed:
            self._times += 1
            self._agreed = watch.any_of(f"question {self._times} whether to stop", self._asked)
        return self._agreed

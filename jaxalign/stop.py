"""A request to stop: SIGTERM (a pre-emption, a scheduler's end) and Ctrl-C. The loop saves and ends at the next step."""

import signal

import jax
from jax.experimental import multihost_utils
import numpy as np


class StopRequest:
    """Listens from its making on. A second signal kills."""

    def __init__(self):
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number, frame) -> None:
        self._asked = True
        signal.signal(number, signal.SIG_DFL)

    def requested(self) -> bool:
        """Whether any process was asked; the same answer on all of them, so that they leave at the same step."""

        if jax.process_count() == 1:
            return self._asked
        return bool(multihost_utils.process_allgather(np.array(self._asked)).any())

"""Where the time from a command to its first finished step goes: one line of the run's log, and "speed/start_up..." among its metrics."""

import os
from pathlib import Path
import time

TOTAL = "speed/start_up_s"  # metric: seconds to the end of the first step
PART = "speed/start_up/{}_s"  # metric: seconds of each part
COMPILING = "/jax/core/compile/"  # what the events begin with by which jax reports that it has traced, lowered or compiled something
SHOWN_S = 0.05  # a shorter part is not in the line
_IMPORTED = time.monotonic()


def process_began() -> float:
    """When this process began, on the clock of `time.monotonic`; where the system does not tell, when this module was imported."""
    file = Path("/proc/self/stat")
    if not file.is_file():
        return _IMPORTED
    began = int(file.read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")  # field 22, counted behind the name's bracket
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - began
    return time.monotonic() - age if age >= 0 else _IMPORTED


class Clock:
    """Splits the time since `began` into parts that follow each other, until the first step is finished. It runs inside `with`.

    What jax takes to trace, lower and compile programs, or to read them from the folder in which they are kept, is a part of its own,
    "compile", wherever it happens.

    Args:
      began: on the clock of `time.monotonic`.
    """

    def __init__(self, began: float):
        self._begin(began)

    def __enter__(self) -> "Clock":
        return self

    def __exit__(self, *_) -> None:
        self._end()

    def restart(self) -> None:
        """A stage begins now. Where the first step of an earlier one is finished, its parts begin anew."""
        self.began = time.monotonic()
        if not self._runs:
            self._begin(self.began)

    def lap(self, part: str) -> None:
        """The time since the last call, or since the beginning, was spent on this part. It has no effect after `finish`."""
        if not self._runs:
            return
        since, self._until = self._until, time.monotonic()
        spans, self._spans = self._spans, []
        compiling = covered(spans, since, self._until)
        self._compiling += compiling
        self.parts[part] = self.parts.get(part, 0.0) + self._until - since - compiling

    def finish(self) -> dict[str, float]:
        """The metrics when the first step is finished, TOTAL and a PART each; nothing when that was so before."""
        if not self._runs:
            return {}
        self.lap("first step")
        self._end()
        self.parts |= {"compile": self._compiling, "first step": self.parts.pop("first step")}
        return {TOTAL: sum(self.parts.values()), **{PART.format(name.replace(" ", "_")): value for name, value in self.parts.items()}}

    def line(self) -> str:
        """What a reader of the log is told when the first step is finished."""
        split = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.parts.items() if seconds >= SHOWN_S)
        return f"first step finished after {sum(self.parts.values()):.1f} s: {split}"

    def _begin(self, began):
        import jax  # after `process_began`

        self.began = self._until = began
        self.parts: dict[str, float] = {}
        self._spans: list[tuple[float, float]] = []
        self._compiling, self._runs = 0.0, True
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _end(self):
        import jax

        if self._runs:
            self._runs = False
            jax.monitoring.unregister_event_duration_listener(self._heard)

    def _heard(self, event, seconds, **_):
        if event.startswith(COMPILING):
            now = time.monotonic()
            self._spans.append((now - seconds, now))


def covered(spans: list[tuple[float, float]], since: float, until: float) -> float:
    """Seconds between `since` and `until` that lie in any of the spans, which may overlap: a function is traced while another one is."""
    total = 0.0
    for start, end in sorted(spans):
        start, end = max(start, since), min(end, until)
        total, since = total + max(end - start, 0.0), max(end, since)
    return total

"""What ends a process that would wait for ever: for one that is dead, stopped or late, or for a collective that hangs.

Every process tells the first one every few seconds where it is: `at` names the place, such as "step 12". A second thread ends it, with the
stacks of all its threads in the log, where another process has been silent for `lost_s`, has ended with an error, or where its own main
thread has been at one place for `stall_s`, the time in which a program is compiled left out. The first process hears of all others, and
they of it: what it finds reaches them through it. A process whose own error ends it tells the others before it leaves.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import faulthandler
import json
import os
import sys
import threading
import time

from jaxalign.hosts.channel import Channel, connected
from jaxalign.hosts.compiler import compiling, on_compiled

LOST_S = 120.0  # also of what holds Python's lock for long; jax's own heartbeat is set to be slower
STALL_S = 3600.0
LOST_CODE = 75  # exit code after which launchers start again: "temporary failure" by the convention of sysexits
FOR_EVER_S = 7 * 24 * 3600.0
LEFT = "left"  # what a process says last that ends well


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the main thread of a process is."""

    name: str
    since: float
    limited: bool  # whether it may take no longer than stall_s


@dataclasses.dataclass(frozen=True)
class End:
    """Why and how a process ends."""

    code: int
    text: str
    stacks: bool = False

    def line(self) -> str:
        """As it is told to the other processes."""
        return json.dumps(dataclasses.astuple(self))


class Watch:
    """The watch over one process. `begin` starts its threads; `verdict` alone decides, from what it was told and a time.

    Args:
      channel: to the other processes; None where there are none.
      lost_s: seconds of silence after which another process counts as lost.
      stall_s: seconds that a limited place may take; None: any.
      lost_code: exit code where a process is lost or a step hangs; 1 where that would come again, see `stepped`.
      end: ends the process with an exit code.
    """

    def __init__(
        self,
        channel: Channel | None,
        *,
        lost_s: float = LOST_S,
        stall_s: float | None = STALL_S,
        lost_code: int = LOST_CODE,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], None] = os._exit,
    ):
        self.channel, self.stall_s = channel, stall_s
        self._lost_s, self._lost_code, self._clock, self._exit = lost_s, lost_code, clock, end
        self._every_s = min(5.0, lost_s / 12)
        now = clock()
        self.place, self._futile = Place("the start", now, limited=False), "No step was finished, so launchers do not start again."
        self._heard: dict[int, tuple[str, float]] = {}  # process -> its last words, and when they changed
        self._ends: dict[int, tuple[End, float]] = {}  # process -> why it ended, and when that was heard
        self._answered = self._looked = now  # when the first process last answered; when `verdict` was last asked
        self._closed, self._main = threading.Event(), threading.get_ident()
        self._ending, self._left = threading.Lock(), threading.Event()  # the thread that takes the lock ends the process, and keeps it

    def begin(self) -> None:
        """Starts the threads; the calling thread is the one that is watched."""
        for body in (self._talk, self._judge) if self.channel else (self._judge,):
            threading.Thread(target=body, name=f"jaxalign{body.__name__}", daemon=True).start()

    def at(self, place: str, *, limited: bool = True) -> None:
        """The main thread has come to a place; the last step before it is finished."""
        self.place = Place(place, self._clock(), limited)

    def compiled(self, seconds: float) -> None:
        """A thread has waited so long for the compiler; where it is the main thread, its place does not count that."""
        if threading.get_ident() == self._main:
            self.place = dataclasses.replace(self.place, since=min(self.place.since + seconds, self._clock()))

    def stepped(self, futile: str = "") -> None:
        """This start has finished a step; `futile`: a sentence why, yet, what ends it now would come again."""
        self._futile = futile

    def hear(self, beats: dict[str, str], ends: dict[str, str]) -> None:
        """Takes up what the processes say: number -> words, and number -> how it ended."""
        now = self._answered = self._clock()
        for number, words in ((int(number), words) for number, words in beats.items()):
            if words != self._heard.get(number, ("", now))[0]:
                self._heard[number] = words, now
        for number, line in ((int(number), line) for number, line in ends.items()):
            if number != self._number and number not in self._ends:
                self._ends[number] = End(*json.loads(line)), now

    def verdict(self) -> End | None:
        """Why this process must end now; None: it goes on."""
        now, before = self._clock(), self._looked
        self._looked = now
        if now - before > self._lost_s / 2:  # this process itself was stopped: nobody else is to blame yet
            self._answered, self._heard = now, {number: (words, now) for number, (words, _) in self._heard.items()}
            return None
        for number, (end, since) in self._ends.items():
            if now - since > 2 * self._every_s:  # its own main thread may find out by itself
                return End(end.code, f"process {number} ended: {end.text} ({self._here(now)})", end.stacks)
        for number in self.silent(self._lost_s, everyone=not self._number):
            return End(self._code(), self._lost(number, now), stacks=True)
        return self._stalled(now)

    def silent(self, seconds: float, *, everyone: bool) -> list[int]:
        """The processes that have said nothing new for so long and have not ended: of everyone, or only the first one."""
        now = self._clock()
        if self._number and now - self._answered > seconds:
            return [0]
        heard = {number: self._heard[number] for number in sorted(self._others()) if everyone or not number}
        return [number for number, (_, since) in heard.items() if number not in self._ends and now - since > seconds]

    def _others(self) -> set[int]:
        """The other processes that have been heard of and have not ended well."""
        return {number for number, (words, _) in self._heard.items() if words != LEFT} - {self._number}

    def fail(self, code: int, text: str) -> None:
        """Tells the other processes why this one ends, waits until they know, and ends it; returns where there are none."""
        if self.channel is None:
            return
        self._closed.set()
        if not self._ending.acquire(blocking=False):  # this error came of the end that the other thread is telling the others
            self._left.wait()
            return
        silent = self._inform(End(code, text))
        if silent:
            print(f"{self._lost(silent[0], self._clock())}", file=sys.stderr)
        self._leave(self._code() if silent else code)

    def close(self) -> None:
        """Stops watching: the process ends well."""
        self._closed.set()
        if self.channel:
            with contextlib.suppress(Exception):
                self.channel.put(f"beat/{self._number}", LEFT)

    @property
    def _number(self) -> int:
        return self.channel.number if self.channel else 0

    def _code(self) -> int:
        return 1 if self._futile else self._lost_code

    def _here(self, now) -> str:
        who = f"this one, process {self._number} of {self.channel.count}," if self.channel else "this process"
        return f"{who} is at {self.place.name}, for {now - self.place.since:.0f} s"

    def _lost(self, number, now) -> str:
        words = self._heard.get(number, ("", now))[0]
        last = f"; it was last at {json.loads(words)[1]}" if words and words != LEFT else ""
        since = now - (self._heard[number][1] if number in self._heard else self._answered)
        why = "It was killed or stopped, or its host cannot be reached"
        return f"process {number} has not answered for {since:.0f} s{last}. {why}; {self._here(now)}. {self._futile}".rstrip()

    def _stalled(self, now) -> End | None:
        place = self.place
        if place.limited and self.stall_s is not None and now - place.since > self.stall_s:
            if not compiling(sys._current_frames().get(self._main)):  # seldom: Python has crashed in frames of a thread that runs
                return self._stall(now)
            self.place = dataclasses.replace(place, since=now)
        return None

    def _stall(self, now) -> End:
        place = self.place
        words = {number: json.loads(words)[1] for number, (words, _) in sorted(self._heard.items()) if words != LEFT}
        late = [f"process {number} is at {where}" for number, where in words.items() if number != self._number and where != place.name]
        others = f"; {', '.join(late)}" if late else "; all others whose place is known are there too" if len(words) > 1 else ""
        limit = f"longer than train.stall_minutes={self.stall_s / 60:g}"
        return End(self._code(), f"nothing has moved: {self._here(now)}, {limit}{others}. {self._futile}".rstrip(), stacks=True)

    def _talk(self) -> None:
        """The thread that tells and hears. Its calls wait while the first process is stopped, so it decides nothing."""
        beat = 0
        while not self._closed.wait(self._every_s if beat else 0):
            beat += 1
            late = self.stall_s is not None and self._clock() - self.place.since > self.stall_s / 2
            with contextlib.suppress(Exception):  # the first process does not answer: `verdict` counts the time
                self.channel.put(f"beat/{self._number}", json.dumps([beat, self.place.name]))
                everyone = not self._number or late  # else what each says to each would be many words
                self.hear(self.channel.below("beat") if everyone else {"0": self.channel.get("beat/0") or ""}, self.channel.below("end"))

    def _judge(self) -> None:
        while not self._closed.wait(self._every_s / 2):
            end = self.verdict()
            if end is not None and self._ending.acquire(blocking=False):
                self._closed.set()
                print(f"\n{end.text}", file=sys.stderr, flush=True)
                if end.stacks:
                    faulthandler.dump_traceback(all_threads=True)
                self._inform(end)
                self._leave(end.code)

    def _inform(self, end: End) -> list[int]:
        """Tells the others, and waits until each has ended or is silent, a few beats at most; returns those that are silent."""
        if self.channel is None:
            return []
        thread = threading.Thread(target=self._tell, args=(end,), daemon=True)  # waits while the first process is stopped
        thread.start()
        thread.join(5 * self._every_s)
        return self.silent(3 * self._every_s, everyone=True)

    def _tell(self, end) -> None:
        until = self._clock() + 4 * self._every_s
        with contextlib.suppress(Exception):
            self.channel.put(f"end/{self._number}", end.line())
            while self._clock() < until:
                self.hear(self.channel.below("beat"), self.channel.below("end"))
                if self._others() <= self._ends.keys():
                    break
                time.sleep(self._every_s / 4)
            if not self._number:  # jax ends the others at once where the first one is gone
                time.sleep(self._every_s / 2)

    def _leave(self, code) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._exit(code)  # an orderly end would wait for the others once more, in jax
        self._left.set()


_WATCH: Watch | None = None  # of this process, while `watching`


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[Channel | None]:
    """Makes it the watch of this process and gives its channel. Among several processes one whose body raises goes on, until `fail`."""
    global _WATCH
    _WATCH, ended = watch, False
    watch.begin()
    forget = on_compiled(watch.compiled)
    try:
        yield watch.channel
        ended = True
    finally:
        forget()
        if ended or watch.channel is None:
            watch.close()
            _WATCH = None


def at(place: str, *, limited: bool = True) -> None:
    """The main thread has come to a place: a noun that follows "at"; `limited` ones may take train.stall_minutes at most."""
    if _WATCH is not None:
        _WATCH.at(place, limited=limited)


def stepped(futile: str = "") -> None:
    """A step of the training is finished; `futile` as in `Watch.stepped`."""
    if _WATCH is not None:
        _WATCH.stepped(futile)


def fail(code: int, text: str) -> int:
    """The exit code of a process that an error ends; one among several does not return, see `Watch.fail`."""
    if _WATCH is not None:
        _WATCH.fail(code, text)
    return code


def barrier(name: str, *, limited: bool = True) -> None:
    """Returns when all processes of the run are here; the watch ends this one where another is lost, or where it takes too long."""
    channel = connected() if _WATCH is None else _WATCH.channel
    if channel is None:
        return
    before = None if _WATCH is None else _WATCH.place
    at(f"the barrier {name!r}", limited=limited)
    channel.wait(name, timeout_s=FOR_EVER_S)
    if before is not None:
        at(before.name, limited=before.limited)


def any_of(name: str, asked: bool) -> bool:
    """Whether any process says so; each must call it with the same name, which may be used once."""
    channel = connected() if _WATCH is None else _WATCH.channel
    if channel is None:
        return asked
    if asked:
        channel.put(f"{name}/{channel.number}", "yes")
    barrier(name)
    return bool(channel.below(name))

"""What a check found: passed, failed with the likely cause, or not applicable."""

from collections.abc import Sequence
import dataclasses
import json

from jaxalign.hosts import watch
from jaxalign.hosts.channel import connected

PASSED, FAILED, SKIPPED = "pass", "FAIL", "skip"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of one check."""

    name: str
    result: str  # PASSED, FAILED or SKIPPED
    found: str  # the numbers, or why it was skipped
    cause: str = ""  # where it failed


def verdict(name: str, passed: bool, found: str, cause: str) -> Verdict:
    """A check that passed or failed; `cause` is the likely one of a failure."""
    return Verdict(name, PASSED if passed else FAILED, found, "" if passed else cause)


def skipped(name: str, why: str) -> Verdict:
    """A check that does not apply."""
    return Verdict(name, SKIPPED, why)


def close(name: str, difference: float, tolerance: float, cause: str) -> Verdict:
    """A check of a relative or absolute difference, which a NaN fails."""
    return verdict(name, difference <= tolerance, f"difference {difference:.1e}, at most {tolerance:.0e}", cause)


def agreed(own: Verdict, number: int) -> Verdict:
    """What all processes make of a check: the verdict of the first one, unless it fails on another, which is named.

    Args:
      own: of this process.
      number: of the check.
    """
    if (channel := connected()) is None:
        return own
    channel.put(f"verdict {number}/{channel.number}", json.dumps(dataclasses.astuple(own)))
    watch.barrier(f"the verdict on {own.name!r}")
    theirs = {int(name): Verdict(*json.loads(text)) for name, text in channel.below(f"verdict {number}").items()}
    bad = min((name for name, one in theirs.items() if one.result == FAILED), default=0)
    return dataclasses.replace(theirs[bad], found=f"process {bad}: {theirs[bad].found}") if bad else theirs[0]


def failed(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that failed."""
    return [one for one in verdicts if one.result == FAILED]


def line(one: Verdict) -> str:
    """One row of the table."""
    return f"{one.result:<5} {one.name:<34} {one.found}" + (f"\n      likely cause: {one.cause}" if one.cause else "")

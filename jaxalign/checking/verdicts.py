"""What a check found: passed, failed with the likely cause, or not applicable."""

from collections.abc import Sequence
import dataclasses

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


def failed(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that failed."""
    return [one for one in verdicts if one.result == FAILED]


def line(one: Verdict) -> str:
    """One row of the table."""
    return f"{one.result:<5} {one.name:<34} {one.found}" + (f"\n      likely cause: {one.cause}" if one.cause else "")

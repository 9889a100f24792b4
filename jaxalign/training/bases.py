"""What the adapters of a run stand on, by the run's record. A checkpoint holds the adapters alone, and the hash of their base."""

from typing import Any, NamedTuple


class Base(NamedTuple):
    """The weights below adapters."""

    checkpoint: str | None  # None: random ones
    seed: int  # of these


def of_record(run: dict[str, Any]) -> Base:
    """The base of a run's adapters. Of a run of an earlier version it was always what the run started from."""
    if written := run.get("base"):
        return Base(written["checkpoint"], written["seed"])
    return Base(run["config"]["model"]["checkpoint"], run["config"]["seed"])


def weights_of(run: dict[str, Any]) -> str | None:
    """A hash of that base when the run began; None for random weights."""
    return (run.get("base") or run)["weights"]


def check(run: dict[str, Any], weights: str | None, workdir) -> None:
    """Raises ValueError where the base of a run's adapters is not the one that they were trained on.

    Args:
      run: the record of the run's checkpoint.
      weights: a hash of the present base; None where there is none, or a random one.
    """
    if (trained_on := weights_of(run)) != weights:
        raise ValueError(
            f"{workdir} holds adapters for the weights of {of_record(run).checkpoint!r} with content {trained_on}, and the content there "
            f"is {weights or 'gone'}: adapters fit the base that they were trained on alone. Bring it back there."
        )

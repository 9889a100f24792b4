"""Makes prepared sets: tokenized, checked and packed rows on disk, which training only opens.

    python -m jaxalign.prepare --config configs/NAME.py

`train` does the same by itself when the rows are not there. What is there already is never made again: folders are named by a hash of
everything that they depend on.
"""

from collections.abc import Sequence
import logging
import sys

from jaxalign.config.command_line import from_command_line, run


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the data of every stage of a configuration and reports on it; returns the exit code."""
    return run(_prepare, argv)


def _prepare(argv):
    asked = from_command_line(argv, __doc__.splitlines()[0], command="prepare")
    from jaxalign.config.prepared import prepared_stages

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prepared_stages(asked.stages, tell=lambda lines: print("\n".join(lines)))


if __name__ == "__main__":
    sys.exit(main())

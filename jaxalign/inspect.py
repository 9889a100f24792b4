"""Shows what a run trains on: decoded rows with the trained tokens marked, counts per rule, duplicates, lengths, fill.

    python -m jaxalign.inspect --config configs/NAME.py [--rows 5]
    python -m jaxalign.inspect --prepared FOLDER [--rows 5]

Trained tokens are green on a terminal and stand in [[ ]] elsewhere.
"""

from collections.abc import Sequence
import logging
import sys

from jaxalign.config.command_line import from_command_line, local, run

FLAGS = (
    ("--rows", {"type": int, "default": 5, "help": "examples to show decoded (5)"}),
    ("--prepared", {"metavar": "FOLDER", "type": local, "help": "a prepared rows-... folder, instead of --config"}),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the inspection of every prepared set of a configuration, or of one folder; returns the exit code."""
    return run(_inspect, argv)


def _inspect(argv):
    asked = from_command_line(argv, __doc__.splitlines()[0], FLAGS, command="inspect", instead="--prepared")
    if asked.options.rows < 0:
        raise ValueError(f"--rows {asked.options.rows} is below 0; give a number of examples, 0 for none.")
    from jaxalign.config.prepared import prepared_stages
    from jaxalign.reports.inspection import show

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if asked.options.prepared:
        show(asked.options.prepared, rows=asked.options.rows)
    for prepared, tokenizer_path in prepared_stages(asked.stages, tell=lambda lines: None):
        show(prepared.folder, rows=asked.options.rows, tokenizer_path=tokenizer_path)


if __name__ == "__main__":
    sys.exit(main())

"""Compares runs: a table of their held-out metrics with seeds, intervals and errors, and plots.

    python -m jaxalign.compare --runs runs/dpo_0 runs/dpo_1 runs/kto_0 runs/kto_1 --out runs/compared

Runs may have stages or none. Folders that differ in their number only, like dpo_0 and dpo_1, are seeds of one configuration.
"""

from collections.abc import Sequence
from pathlib import Path
import sys

from jaxalign.config.command_line import local, parse, run

FLAGS = (
    ("--runs", {"nargs": "+", "required": True, "type": local, "help": "folders of runs (the --workdir that each was trained in)"}),
    ("--stages", {"nargs": "+", "help": "which stages to compare, in this order (default: all)"}),
    ("--metrics", {"nargs": "+", "help": "held-out metrics, SET/METRIC for one of several held-out sets (default: accuracy loss kl)"}),
    ("--out", {"type": local, "help": "folder for table.md and the plots (default: print the table only)"}),
    ("--x", {"help": "a metric to draw --y against: a trajectory per run"}),
    ("--y", {"help": "the metric on the other axis"}),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; with --out also writes table.md, curves.png and, with --x and --y, trajectories.png."""
    return run(_compare, argv)


def _compare(argv):
    options = parse(argv, __doc__.splitlines()[0], FLAGS, command="compare")
    if (options.x is None) != (options.y is None):
        raise ValueError("--x and --y go together; give both or neither.")
    if options.x and not options.out:
        raise ValueError("--x and --y draw a plot; give a folder for it with --out.")
    from jaxalign.reports import comparison

    rows, missing = comparison.read([Path(folder) for folder in options.runs], options.stages)
    for metric in [*(options.metrics or ()), *filter(None, (options.x, options.y))]:
        comparison.check(rows, metric)
    metrics = options.metrics or comparison.headline(rows)
    text = comparison.text(rows, metrics, missing)
    print(text)
    if options.out:
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "table.md").write_text(text, encoding="utf-8")
        comparison.draw(out, rows, metrics, x=options.x, y=options.y)
        print(f"Table and plots: {out}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

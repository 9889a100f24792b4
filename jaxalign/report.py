"""One page about runs, to read and to send: which is better, rewards against KL, curves, answers, settings, data, cost.

    python -m jaxalign.report runs/sft runs/dpo runs/tr_dpo --out report.html

Runs may have stages or none. Folders that differ in their number only, like dpo_0 and dpo_1, are seeds of one configuration. The page is
one file: it loads nothing, needs no script, and is readable on a phone.
"""

from collections.abc import Sequence
from pathlib import Path
import sys

from jaxalign.config.command_line import local, parse, run

FLAGS = (
    ("runs", {"nargs": "+", "type": local, "metavar": "RUN", "help": "folders of runs (the --workdir that each was trained in)"}),
    ("--stages", {"nargs": "+", "help": "which stages to show, in this order (default: all)"}),
    ("--out", {"type": local, "default": "report.html", "help": "the page (report.html)"}),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page, and prints what is missing or damaged; returns the exit code."""
    return run(_report, argv)


def _report(argv):
    options = parse(argv, __doc__.splitlines()[0], FLAGS, command="report")
    out = Path(options.out)
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; name a file for the page, like {out / 'report.html'}.")
    from jaxalign.reports.html import contents, document

    entries, remarks = contents.read([Path(folder) for folder in options.runs], options.stages)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(document.page(entries, remarks), encoding="utf-8")
    print(*remarks, f"Page: {out}", sep="\n", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

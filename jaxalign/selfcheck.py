"""Checks a configuration on its own model, rows and mesh before it is trained: a table of what passes, what fails, and why it likely does.

    python -m jaxalign.selfcheck --config configs/NAME.py

Several processes start it as they start jaxalign.train, with --coordinator, and see one --workdir; the first one prints the table, and all
end with the same exit code. Nothing is kept. Gradients are compared in float32 on the first rows of the data; whole steps are those of the
run.
"""

from collections.abc import Sequence
import logging
import sys

from jaxalign.config.command_line import PROCESSES, from_command_line, local, run, start_devices, workdir_of
from jaxalign.hosts import watch

WORKDIR = "folder in which a checkpoint and an export are tried (default: a temporary one; of several processes runs/NAME, which all see)"
FLAGS = (
    ("--workdir", {"type": local, "help": WORKDIR}),
    *PROCESSES,
    ("--cheap", {"action": "store_true", "help": "only what needs no gradient: texts, layout, the reference, the forward pass"}),
    ("--stage", {"help": "which stage of a configuration of several (the first that trains)"}),
)
FAILED = 3  # exit code where a check failed


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code, 3 where a check failed."""
    return run(_selfcheck, argv)


def _selfcheck(argv):
    asked = from_command_line(argv, __doc__.splitlines()[0], FLAGS, command="selfcheck")
    start_devices(asked)
    from jaxalign.checking import verdicts
    from jaxalign.config import checked, preflight
    from jaxalign.config.stages import check_placed, training_stages
    from jaxalign.training import runs

    logging.getLogger("absl").setLevel(logging.WARNING)  # orbax logs every file

    training = training_stages(asked.stages)
    name = asked.options.stage if asked.options.stage is not None else next(iter(training), None)
    if name not in training:
        there = ", ".join(training) or "none"
        raise ValueError(f"--stage {name!r} is no stage that trains; there are {there}.")
    check_placed(training[name], name)

    def show(line: str) -> None:
        if runs.is_first():
            print(line, flush=True)

    with watch.watching(preflight.watch_of(asked)) as channel:
        preflight.check(asked.stages, channel=channel)
        workdir = workdir_of(asked) if channel is not None or asked.options.workdir else None
        found = checked.checked(training[name], name, costly=not asked.options.cheap, workdir=workdir, show=show)
        bad = verdicts.failed(found)
        show(f"{len(bad)} of {len(found)} checks failed" + (f": {', '.join(one.name for one in bad)}" if bad else ""))
    return FAILED if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""Checks a configuration on its own model, rows and mesh before it is trained: a table of what passes, what fails, and why it likely does.

    python -m jaxalign.selfcheck --config configs/NAME.py

Nothing is kept. Gradients are compared in float32 on the first rows of the data; whole steps are those of the run.
"""

from collections.abc import Sequence
import sys

from jaxalign.config.command_line import from_command_line, run, start_devices

FLAGS = (
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
    import jax

    from jaxalign.checking import verdicts
    from jaxalign.config import build, selfchecks
    from jaxalign.config.stages import check_placed, training_stages

    training = training_stages(asked.stages)
    name = asked.options.stage if asked.options.stage is not None else next(iter(training), None)
    if name not in training:
        there = ", ".join(training) or "none"
        raise ValueError(f"--stage {name!r} is no stage that trains; there are {there}.")
    cfg, found = training[name], []
    check_placed(cfg, name)
    with jax.set_mesh(build.mesh(cfg)):
        case = selfchecks.case(cfg)
        halves = [selfchecks.cheap_half(case)] + ([] if asked.options.cheap else [selfchecks.costly_half(case)])
        for one in (one for half in halves for one in half):
            found.append(one)
            print(verdicts.line(one), flush=True)
    bad = verdicts.failed(found)
    print(f"{len(bad)} of {len(found)} checks failed" + (f": {', '.join(one.name for one in bad)}" if bad else ""))
    return FAILED if bad else 0


if __name__ == "__main__":
    sys.exit(main())

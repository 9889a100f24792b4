"""The checks of `selfchecks` on a stage, by all processes of a run together: one table of verdicts."""

from collections.abc import Callable, Mapping
import contextlib
import itertools
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jaxalign.checking import verdicts
from jaxalign.checking.verdicts import Verdict
from jaxalign.config import build, preflight, selfchecks
from jaxalign.config.stages import training_stages
from jaxalign.hosts import folder, watch
from jaxalign.training import runs


def checked(cfg: ConfigDict, name: str, *, costly: bool, workdir: Path | None, show: Callable[[str], None]) -> list[Verdict]:
    """The verdicts on a stage, the same on all processes; each is shown as a line when it is there.

    Args:
      costly: whether its costly half is run too.
      workdir: where checkpoints and exports are tried, seen by all processes; None: in the system's folder for temporary files.

    Raises:
      ValueError: as `selfchecks.case`; the processes have other rows; they do not see one folder.
    """
    found = []
    with jax.set_mesh(build.mesh(cfg)), contextlib.ExitStack() as stack:
        scratch = stack.enter_context(folder.scratch(workdir)) if costly else None
        watch.at("the rows", limited=False)
        one = selfchecks.case(cfg)
        preflight.check_rows(cfg, f"the self-check of {name}", one.sets, one.sets.names())
        watch.at("the self-check")
        halves = [selfchecks.cheap_half(one)] + ([selfchecks.costly_half(one, scratch)] if costly else [])
        for number, own in enumerate(itertools.chain(*halves)):
            found.append(verdicts.agreed(own, number))
            show(verdicts.line(found[-1]))
            watch.at(f"the self-check, after {own.name!r}")
    watch.at("what follows the self-check", limited=False)
    return found


def first(stages: Mapping[str, ConfigDict], wanted: str | None, *, workdir: Path) -> None:
    """Checks the first stage that trains, where it is wanted, and shows that on standard error.

    Args:
      wanted: "cheap" for the half that needs no gradient, "all", or None.
      workdir: where checkpoints and exports are tried.

    Raises:
      ValueError: a check failed, or as `checked`.
    """
    name, cfg = next(iter(training_stages(stages).items()), (None, None))
    if wanted is None or cfg is None:
        return
    found = checked(cfg, name, costly=wanted == "all", workdir=workdir, show=runs.to_stderr)
    if bad := verdicts.failed(found):
        names = ", ".join(one.name for one in bad)
        raise ValueError(f"the self-check failed: {names}. See the likely causes above, or leave --selfcheck out.")

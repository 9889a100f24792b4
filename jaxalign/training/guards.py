"""What stops a run that has gone wrong; its last good checkpoint stays."""

from collections.abc import Mapping
import math

from jaxalign.training.checkpoint import Checkpoints

WATCHED = ("loss", "grad_norm")


def check_finite(values: Mapping[str, float], step: int, *, checked: tuple[int, int], saved: Checkpoints, learning_rate: float) -> None:
    """Raises FloatingPointError where a metric of WATCHED is not finite at a step; `checked` are the first and last steps looked at."""
    bad = [name for name in WATCHED if not math.isfinite(values[name])]
    if bad:
        raise FloatingPointError(
            f"{bad[0]} is {values[bad[0]]} at step {step} (steps {checked[0]} to {checked[1]} were checked); {_newest_good(saved)}; lower "
            f"optimizer.learning_rate (now {learning_rate}) or look at the rows of that step with jaxalign.inspect, and start again in a "
            "new --workdir."
        )


def is_beyond(kl: float | None, most: float | None) -> bool:
    """Whether the KL of a window of rollouts is above train.max_kl, or NaN; False where there is no KL, or no limit."""
    return None not in (kl, most) and not kl <= most


def check_kl(kl: float | None, step: int, *, most: float | None, saved: Checkpoints, learning_rate: float) -> None:
    """Raises FloatingPointError where the KL `is_beyond` its limit; else the policy of this step is good as of `Checkpoints.good`.

    The policy moves between two windows, and what is saved there is not measured: known good is what was saved before a good window.
    """
    if is_beyond(kl, most):
        saved.wait()
        good = saved.newest_known_good()
        kept = "no checkpoint is of a policy within it" if good is None else f"the newest checkpoint of a policy within it is step {good}"
        raise FloatingPointError(
            f"rollout/kl is {kl:.4g} nats per sample at step {step}, more than train.max_kl={most:g}; {kept}. Pull harder to the "
            f"reference (objective.beta), lower optimizer.learning_rate (now {learning_rate}) or raise train.max_kl, and start again in a "
            "new --workdir."
        )
    if None not in (kl, most):
        saved.good = step


def _newest_good(saved):
    saved.wait()
    return "there is no checkpoint yet" if saved.latest is None else f"the newest good checkpoint is step {saved.latest}"

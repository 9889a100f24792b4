"""What stops a run that has gone wrong; its last good checkpoint stays."""

from collections.abc import Mapping
import math

from jaxalign.training.checkpoint import Checkpoints

WATCHED = ("loss", "grad_norm")
MOST_SKIPPED = 10  # steps in a row: a run that skips all of them trains nothing


class Policy:
    """What becomes of steps that go wrong: "stop" ends the run, "skip" leaves their update out, unless too many follow each other.

    Args:
      on_nan: of steps whose loss or gradient is not finite.
      on_spike: of steps whose gradient has a norm above spike_grad_norm; None: there are none.
      learning_rate: for the message.
    """

    def __init__(self, on_nan: str, on_spike: str, spike_grad_norm: float | None, learning_rate: float):
        self._on_nan, self._spike, self._learning_rate = on_nan, spike_grad_norm, learning_rate
        skips_spikes = on_spike == "skip" and spike_grad_norm is not None
        self.largest_norm = spike_grad_norm if skips_spikes else math.inf if on_nan == "skip" else None  # see `step.skipping`
        self._stops_at_spikes = on_spike == "stop" and spike_grad_norm is not None
        self._in_a_row = 0

    def check(self, values: Mapping[str, float], step: int, *, checked: tuple[int, int], saved: Checkpoints) -> None:
        """Raises FloatingPointError where the metrics of a step end the run; `checked` are the first and last steps looked at."""
        bad = [name for name in WATCHED if not math.isfinite(values[name])]
        self._in_a_row = self._in_a_row + 1 if values.get("skipped") else 0
        if bad and self._on_nan == "stop":
            found = f"{bad[0]} is {values[bad[0]]}"
        elif not bad and self._stops_at_spikes and values["grad_norm"] > self._spike:
            found = f"grad_norm is {values['grad_norm']:.4g}, more than train.spike_grad_norm={self._spike:g},"
        elif self._in_a_row > MOST_SKIPPED:
            found = f"more than {MOST_SKIPPED} steps in a row had to be skipped, and {WATCHED[0]} is {values[WATCHED[0]]}"
        else:
            return
        raise FloatingPointError(
            f"{found} at step {step} (steps {checked[0]} to {checked[1]} were checked); {_newest_good(saved)}; lower "
            f"optimizer.learning_rate (now {self._learning_rate}) or look at the rows of that step with jaxalign.inspect, and start again "
            "in a new --workdir; or go on from that checkpoint with train.on_nan='skip' or train.on_spike='skip'."
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

"""What becomes of a run that has gone wrong: it stops, or goes back to its last good checkpoint, which stays."""

from collections.abc import Mapping, Sequence
import math

from jaxalign.training.checkpoint import Checkpoints
from jaxalign.training.roll_back import RollBack, Skipped, recorded

WATCHED = ("loss", "grad_norm")
MOST_SKIPPED = 10  # steps in a row: a run that skips all of them trains nothing


class Policy:
    """What becomes of steps that go wrong.

    "stop" ends the run. "skip" leaves their update out, unless too many follow each other. "roll_back" goes back to the last good
    checkpoint and on with the batches after that of the step.

    Args:
      on_nan: of steps whose loss or gradient is not finite.
      on_spike: of steps whose gradient has a norm above spike_grad_norm; None: there are none.
      max_roll_backs: how often a run may roll back, all its starts together.
      learning_rate: for the message.
    """

    def __init__(self, on_nan: str, on_spike: str, spike_grad_norm: float | None, *, max_roll_backs: int, learning_rate: float):
        self._on_nan, self._on_spike, self._spike = on_nan, on_spike, math.inf if spike_grad_norm is None else spike_grad_norm
        self._most, self._learning_rate = max_roll_backs, learning_rate
        skips_spikes = on_spike == "skip" and spike_grad_norm is not None
        self.largest_norm = spike_grad_norm if skips_spikes else math.inf if on_nan == "skip" else None  # see `step.skipping`
        self._in_a_row = 0

    def check(self, values: Mapping[str, float], step: int, *, checked: tuple[int, int], saved: Checkpoints) -> None:
        """Looks at the metrics of a step; `checked` are the first and last steps looked at.

        Raises:
          FloatingPointError: the step ends the run.
          RollBack: the run goes on as `back` has it.
        """
        bad = [name for name in WATCHED if not math.isfinite(values[name])]
        self._in_a_row = self._in_a_row + 1 if values.get("skipped") else 0
        if bad and self._on_nan != "skip":
            policy, found = self._on_nan, f"{bad[0]} is {values[bad[0]]}"
        elif not bad and self._on_spike != "skip" and values["grad_norm"] > self._spike:
            policy, found = self._on_spike, f"grad_norm is {values['grad_norm']:.4g}, more than train.spike_grad_norm={self._spike:g},"
        elif self._in_a_row > MOST_SKIPPED:
            what = f"{WATCHED[0]} is {values[WATCHED[0]]}"
            policy, found = "stop", f"more than {MOST_SKIPPED} steps in a row had to be skipped, and {what}"
        else:
            return
        if policy == "roll_back":
            raise RollBack(found, step)
        way = "; or go on from that checkpoint with train.on_nan or train.on_spike='skip' or 'roll_back'."
        raise self._stopped(f"{found} at step {step} (steps {checked[0]} to {checked[1]} were checked)", saved, way)

    def back(self, bad: RollBack, skipped: Skipped, saved: Checkpoints) -> tuple[int, Skipped, str]:
        """(the last good step, the batches that are skipped from it on, what to tell the reader). Every process must call it.

        Args:
          skipped: what was skipped until now.

        Raises:
          FloatingPointError: the run has rolled back as often as it may.
          CheckpointError: there are checkpoints, and all of them are damaged.
        """
        saved.wait()
        if skipped.times >= self._most:
            times = f"the run has rolled back {skipped.times} times, which train.max_roll_backs={self._most} allows"
            raise self._stopped(f"{bad.found} at step {bad.step}; {times}", saved, ".")
        step = saved.begin() or 0
        known = recorded(saved.read_run(step)) if step else Skipped()
        first, last = known.batch(step), skipped.batch(bad.step)
        what = f"batch {first}" if first == last else f"the {last - first + 1} batches {first} to {last}"
        return (
            step,
            Skipped((*known.ranges, (first, last + 1)), skipped.times + 1),
            f"{bad.found} at step {bad.step}: the run goes back to step {step} and skips {what} (roll back "
            f"{skipped.times + 1} of at most {self._most}).",
        )

    def _stopped(self, what, saved, way):
        return FloatingPointError(
            f"{what}; {_newest_good(saved)}; lower optimizer.learning_rate (now {self._learning_rate}) or look at the rows of that step "
            f"with jaxalign.inspect, and start again in a new --workdir{way}"
        )


def is_beyond(kl: float | None, most: float | None) -> bool:
    """Whether the KL of a window of rollouts is above train.max_kl, or NaN; False where there is no KL, or no limit."""
    return None not in (kl, most) and not kl <= most


def check_kl(kl: float | None, step: int, *, most: float | None, saved: Checkpoints, learning_rate: float, pulls: Sequence[str]) -> None:
    """Raises FloatingPointError where the KL `is_beyond` its limit; else the policy of this step is good as of `Checkpoints.good`.

    The policy moves between two windows, and what is saved there is not measured: known good is what was saved before a good window.

    Args:
      kl: nats per sample, of a window that begins at this step; None: there is none.
      most: train.max_kl.
      pulls: keys of the configuration that pull to the reference, where they are raised.
    """
    if is_beyond(kl, most):
        saved.wait()
        good = saved.newest_known_good()
        kept = "no checkpoint is of a policy within it" if good is None else f"the newest checkpoint of a policy within it is step {good}"
        first = f"Pull harder to the reference ({' or '.join(pulls)}), lower" if pulls else "Lower"
        raise FloatingPointError(
            f"rollout/kl is {kl:.4g} nats per sample at step {step}, more than train.max_kl={most:g}; {kept}. {first} "
            f"optimizer.learning_rate (now {learning_rate}) or raise train.max_kl, and start again in a new --workdir."
        )
    if None not in (kl, most):
        saved.good = step


def _newest_good(saved):
    saved.wait()
    return "there is no checkpoint yet" if saved.latest is None else f"the newest good checkpoint is step {saved.latest}"

"""Reference rules: what the reference model is at every step.

A rule is `(reference, trainable, step, **hparams) -> reference`, called inside the train step after the update with the number of steps
done. The reference is part of the train state: it starts as a copy of the policy, is sharded and checkpointed like it, and never receives
a gradient. Moving references are Trust-Region alignment (TR-DPO, arXiv 2404.09656), and go with any objective. A teacher is another
model, maybe of another size: its weights come from its own checkpoint whenever a run starts, and are in no checkpoint of the run.
"""

from collections.abc import Callable
import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxalign import offload
from jaxalign.hparams import hparams_of

COLUMN = "reference_logps"  # float32[R, T]; log-probs of the reference where its weights are not in memory
EVERY = "every_steps"  # the argument of a rule that moves the reference; the run computes it from reference.every_*


@dataclasses.dataclass(frozen=True)
class Rule:
    """A reference rule and what is true of it."""

    move: Callable  # (reference, trainable, step, **options) -> reference
    holds: str = "nothing"  # "weights": a copy of what is trained; "logps": no weights, but log-probs in the batch's column COLUMN
    moves: bool = False  # every so many steps, which the configuration must then specify
    separate: bool = False  # its weights come from a checkpoint of their own, with a forward of their own, and are saved in none of the run

    @property
    def options(self) -> dict[str, Any]:
        """The options of the rule and their defaults."""
        return {name: default for name, default in hparams_of(self.move).items() if name != EVERY}

    def bind(self, *, every_steps: int = 0, **options) -> Callable:
        """(reference, trainable, step) -> reference, with the options bound."""
        moves = {EVERY: every_steps} if EVERY in hparams_of(self.move) else {}
        return partial(self.move, **options, **moves)


def none(reference, trainable, step):
    """No reference model: nothing is held in memory."""
    return None


def frozen(reference, trainable, step):
    """The policy as it was before the first step, for ever."""
    return reference


def teacher(reference, trainable, step, *, checkpoint: str):
    """Another model of the same vocabulary, of any size, for ever: what a student is distilled from.

    Args:
      checkpoint: a Hugging Face folder, package:NAME, stage:NAME, or a run (RUN, RUN@best, RUN@STEP).
    """
    return reference


def soft(reference, trainable, step, *, alpha: float = 0.6, every_steps: int):
    """Every so many optimizer steps reference <- alpha policy + (1 - alpha) reference, in float32 (TR-X^alpha).

    Args:
      alpha: weight of the *policy*, as in the paper (0.5 to 0.7 are best there); 0 leaves the reference as it is, 1 is `hard`.
      every_steps: optimizer steps from one move to the next.

    Raises:
      ValueError: alpha is not in [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"reference.alpha={alpha} is not in [0, 1]; it is the weight of the policy, 0.6 in the paper.")
    due, reference = step % every_steps == 0, offload.on_device(reference)
    return jax.tree.map(lambda new, old: jnp.where(due, alpha * new + (1 - alpha) * old, old), trainable, reference)


def hard(reference, trainable, step, *, every_steps: int):
    """Every so many optimizer steps the reference becomes a copy of the policy (TR-X^tau; tau is 512 in the paper)."""
    due, reference = step % every_steps == 0, offload.on_device(reference)
    return jax.tree.map(lambda new, old: jnp.where(due, new, old), trainable, reference)


def hard_table(reference, trainable, step):
    """`hard` without the reference's weights: the policy's log-probs on the batches of the next steps are computed when it would move.

    The source of the batches does so (`rollout.source.PolicyLogps`).
    """
    return None


def precomputed(reference, trainable, step):
    """`frozen` without its weights: log-probs stand in the column "reference_logps" of the data, written once before the run."""
    return None


RULES = {
    "none": Rule(none),
    "frozen": Rule(frozen, holds="weights"),
    "teacher": Rule(teacher, holds="weights", separate=True),
    "soft": Rule(soft, holds="weights", moves=True),
    "hard": Rule(hard, holds="weights", moves=True),
    "hard_table": Rule(hard_table, holds="logps", moves=True),
    "precomputed": Rule(precomputed, holds="logps"),
}

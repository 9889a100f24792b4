"""Reference rules: what the reference model is at every step.

A rule is `(reference, trainable, step, **hparams) -> reference`, called inside the train step after the update with the number of steps
done. The reference is part of the train state: it starts as a copy of the policy, is sharded and checkpointed like it, and never receives
a gradient. Moving references are Trust-Region alignment (TR-DPO, arXiv 2404.09656), and go with any objective.
"""

from flax import struct
import jax
import jax.numpy as jnp

from jaxalign.types import Array, Batch

COLUMN = "reference_logps"  # float32[R, T]; log-probs of the reference where its weights are not in memory


@struct.dataclass
class Table:
    """Log-probs of the reference on the batches of the next steps, instead of its weights: 4 bytes a token."""

    logps: Array  # float32[every, R, T]; entry step % every is for the batch of that step


def none(reference, trainable, step):
    """No reference model: nothing is held in memory."""
    return None


def frozen(reference, trainable, step):
    """The policy as it was before the first step, for ever."""
    return reference


def soft(reference, trainable, step, *, alpha: float = 0.6, every_steps: int):
    """Every so many optimizer steps reference <- alpha policy + (1 - alpha) reference, in float32 (TR-X^alpha).

    alpha weighs the *policy*, as in the paper (0.5 to 0.7 are best there); 0 leaves the reference as it is, 1 is `hard`.

    Raises:
      ValueError: alpha is not in [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"reference.alpha={alpha} is not in [0, 1]; it is the weight of the policy, 0.6 in the paper.")
    due = step % every_steps == 0
    return jax.tree.map(lambda new, old: jnp.where(due, alpha * new + (1 - alpha) * old, old), trainable, reference)


def hard(reference, trainable, step, *, every_steps: int):
    """Every so many optimizer steps the reference becomes a copy of the policy (TR-X^tau; tau is 512 in the paper)."""
    due = step % every_steps == 0
    return jax.tree.map(lambda new, old: jnp.where(due, new, old), trainable, reference)


def hard_table(reference, trainable, step, *, every_steps: int):
    """`hard` without the reference's weights: the policy's log-probs on the batches of the next steps are computed when it would move.

    The loop fills the table (`step.make_refresh`); it holds 4 * every_steps * rows * row_tokens bytes, over all devices together.
    """
    return reference


def precomputed(reference, trainable, step):
    """`frozen` without its weights: log-probs stand in the column "reference_logps" of the data, written once before the run."""
    return None


RULES = {"none": none, "frozen": frozen, "soft": soft, "hard": hard, "hard_table": hard_table, "precomputed": precomputed}
WITH_WEIGHTS = ("frozen", "soft", "hard")  # rules that hold a copy of the parameters
MOVING = ("soft", "hard", "hard_table")


def with_table(reference, batch: Batch, step: Array):
    """(reference, batch): where the reference is a table, its entry for this step becomes the batch's column and the reference None."""
    if not isinstance(reference, Table):
        return reference, batch
    logps = jax.lax.dynamic_index_in_dim(reference.logps, step % reference.logps.shape[0], keepdims=False)
    return None, batch.replace(columns=batch.columns | {COLUMN: logps})

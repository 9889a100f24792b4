"""Optimizers: gradient clipping, the update rule by name, decoupled weight decay on matrices, and the learning-rate schedule.

Every rule's keyword arguments are its options in the config. Moments are float32 and laid out like the parameters.
"""

from collections.abc import Callable

import jax
import optax


def adamw(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101). b2 = 0.95 is common for large batches."""
    return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)


def rmsprop(*, decay: float = 0.99, eps: float = 1e-8) -> optax.GradientTransformation:
    """RMSprop as torch defines it (eps outside the root), the optimizer of the DPO paper; half of AdamW's state."""
    return optax.scale_by_rms(decay=decay, eps=eps, eps_in_sqrt=False)


def adafactor(*, decay: float = 0.8, clipping_threshold: float = 1.0, min_dim_size_to_factor: int = 128) -> optax.GradientTransformation:
    """Adafactor (arXiv 1804.04235) without first moment and without scaling by the parameter: almost no state."""
    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=decay, min_dim_size_to_factor=min_dim_size_to_factor),
        optax.clip_by_block_rms(clipping_threshold),
    )


RULES = {"adamw": adamw, "rmsprop": rmsprop, "adafactor": adafactor}


def make_schedule(shape: str, *, learning_rate: float, warmup_steps: int, total_steps: int, min_lr_ratio: float) -> optax.Schedule:
    """Learning rate by step: linear over warmup_steps, then "constant", "linear" or "cosine" to min_lr_ratio of the peak.

    The warm-up reaches the peak with its last step; its first step has 1 / warmup_steps of it, so no step trains nothing.
    """
    rest, final = max(total_steps - warmup_steps, 1), learning_rate * min_lr_ratio
    after = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, final, rest),
        "cosine": optax.cosine_decay_schedule(learning_rate, rest, alpha=min_lr_ratio),
    }[shape]
    if not warmup_steps:
        return after
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, after], [warmup_steps])


def extended(schedule: optax.Schedule, *, after: int, learning_rate: float) -> optax.Schedule:
    """The schedule up to step `after`, then a constant learning rate: for a run that goes on after its end."""
    return optax.join_schedules([schedule, optax.constant_schedule(learning_rate)], [after])


def make_optimizer(
    rule: Callable[..., optax.GradientTransformation],
    schedule: optax.Schedule,
    *,
    max_grad_norm: float,
    weight_decay: float,
    axes,
    **hparams,
) -> optax.GradientTransformation:
    """Clip by global norm -> rule -> weight decay -> learning rate.

    Args:
      rule: one of RULES; hparams go to it.
      max_grad_norm: largest global norm of the gradient; 0 turns clipping off.
      weight_decay: times the learning rate, on matrices only: norms and biases do not decay.
      axes: logical axes of every parameter (model.axes); "layers" does not count as a dimension of a matrix.
    """

    def is_matrix(path, leaf_axes):
        return path[-1].key != "bias" and sum(axis != "layers" for axis in leaf_axes) >= 2

    matrices = jax.tree_util.tree_map_with_path(is_matrix, axes, is_leaf=lambda a: isinstance(a, tuple))
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm) if max_grad_norm else optax.identity(),
        rule(**hparams),
        optax.add_decayed_weights(weight_decay, mask=matrices) if weight_decay else optax.identity(),
        optax.scale_by_learning_rate(schedule),
    )

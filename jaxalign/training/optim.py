"""Optimizers: gradient clipping, the update rule by name, decoupled weight decay on matrices, and the learning-rate schedule.

A rule is `(axes, **options) -> GradientTransformation`, with the logical axes of every parameter; its keyword arguments are its options in
the config. Moments are laid out like the parameters. Of the memory-saving forms optax has the narrow first moment (`mu_dtype`) and the
factored second one (`adafactor`); it has no moments of 8 bits.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from jaxalign import sharding
from jaxalign.models.lora import RANK
from jaxalign.training.layerwise import layer_by_layer

MOMENTS = ("float32", "bfloat16")
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the quintic of the published Muon: singular values go to about 1 in five steps
RMS = 0.2  # arXiv 2502.16982, section 2.2: the root mean square of an AdamW update


def adamw(axes, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, mu_dtype: str = "float32") -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101).

    Args:
      axes: logical axes of the parameters; not read here.
      b1: decay of the first moment.
      b2: decay of the second moment; 0.95 is common for large batches.
      eps: added to the root of the second moment.
      mu_dtype: dtype of the first moment, float32 or bfloat16. The second stays float32: bfloat16 would round away its changes of 1 - b2.
    """
    _check("adamw", b1=b1, b2=b2, eps=eps)
    return optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=_moment("adamw", mu_dtype))


def rmsprop(axes, *, decay: float = 0.99, eps: float = 1e-8) -> optax.GradientTransformation:
    """RMSprop as torch defines it, the optimizer of the DPO paper; half of AdamW's state.

    Args:
      axes: logical axes of the parameters; not read here.
      decay: of the mean of squares.
      eps: added to its root, outside of it.
    """
    _check("rmsprop", decay=decay, eps=eps)
    return optax.scale_by_rms(decay=decay, eps=eps, eps_in_sqrt=False)


def adafactor(
    axes, *, decay: float = 0.8, clipping_threshold: float = 1.0, min_dim_size_to_factor: int = 128
) -> optax.GradientTransformation:
    """Adafactor (arXiv 1804.04235) without first moment and without scaling by the parameter: almost no state.

    Args:
      axes: logical axes of the parameters; not read here.
      decay: exponent of the decay of the second moment.
      clipping_threshold: largest root mean square of the update of one parameter.
      min_dim_size_to_factor: smallest dimension of a matrix whose second moment is factored.
    """
    _check("adafactor", decay=decay, clipping_threshold=clipping_threshold, min_dim_size_to_factor=min_dim_size_to_factor)
    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=decay, min_dim_size_to_factor=min_dim_size_to_factor),
        optax.clip_by_block_rms(clipping_threshold),
    )


def lion(axes, *, b1: float = 0.9, b2: float = 0.99, mu_dtype: str = "float32") -> optax.GradientTransformation:
    """Lion (arXiv 2302.06675): the sign of a momentum, half of AdamW's state, a quarter with mu_dtype "bfloat16".

    The paper: a learning rate 3 to 10 times smaller than AdamW's, and a weight decay as many times larger.

    Args:
      axes: logical axes of the parameters; not read here.
      b1: share of the momentum in the update.
      b2: decay of the momentum.
      mu_dtype: dtype of the momentum, float32 or bfloat16.
    """
    _check("lion", b1=b1, b2=b2)
    return optax.scale_by_lion(b1=b1, b2=b2, mu_dtype=_moment("lion", mu_dtype))


def muon(
    axes, *, beta: float = 0.95, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, mu_dtype: str = "float32"
) -> optax.GradientTransformation:
    """Muon (arXiv 2502.16982) on the matrices of the layers, with momentum beta; AdamW with b1, b2, eps on tables, norms and biases.

    The two factors of an adapter are matrices, each for itself.

    A matrix moves along its orthogonalized Nesterov momentum, scaled to the root mean square of an AdamW update, so that AdamW's learning
    rate and decay fit. It equals `optax.contrib.muon(consistent_rms=0.2)`, which takes no matrices that are split over devices.

    Args:
      axes: logical axes of the parameters.
      beta: decay of the momentum of matrices.
      b1: of AdamW, decay of the first moment.
      b2: of AdamW, decay of the second moment.
      eps: of AdamW, added to the root of the second moment.
      mu_dtype: dtype of the momentum and of the first moment, float32 or bfloat16.
    """
    _check("muon", beta=beta)
    rules = {
        "matrix": _orthogonal_momentum(axes, beta, _moment("muon", mu_dtype)),
        "rest": adamw(axes, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype),
    }
    return optax.partition(
        rules, jax.tree.map(lambda matrix, of: "matrix" if matrix and of[0] == "layers" else "rest", _matrices(axes), axes)
    )


RULES = {"adamw": adamw, "rmsprop": rmsprop, "adafactor": adafactor, "lion": lion, "muon": muon}


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
    by_layer: bool = False,
    scales: Mapping[str, float] | None = None,
    **hparams,
) -> optax.GradientTransformation:
    """Clip by global norm -> rule -> weight decay -> learning rate.

    Args:
      rule: one of RULES; hparams go to it.
      max_grad_norm: largest global norm of the gradient; 0 turns clipping off.
      weight_decay: times the learning rate, on matrices only: norms and biases do not decay.
      axes: logical axes of every parameter (model.axes); "layers" does not count as a dimension of a matrix.
      by_layer: moments may rest in the memory of the host, see `layerwise`; the state is the same.
      scales: top-level keys of the parameters -> what their learning rate is times that of the rest.
    """
    update = rule(axes, **hparams)
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm) if max_grad_norm else optax.identity(),
        layer_by_layer(update) if by_layer else update,
        optax.add_decayed_weights(weight_decay, mask=_matrices(axes)) if weight_decay else optax.identity(),
        _scaled(optax.scale_by_learning_rate(schedule), scales or {}),
    )


def _scaled(rate: optax.GradientTransformation, scales: Mapping[str, float]) -> optax.GradientTransformation:
    """The same transformation with the same state, whose updates of these top-level keys are so many times as large."""

    def update(updates, state, params=None):
        updates, state = rate.update(updates, state, params)
        own = {key: jax.tree.map(lambda x, times=scales[key]: times * x, updates[key]) for key in updates if key in scales}
        return {**updates, **own}, state

    return optax.GradientTransformation(rate.init, update) if scales else rate


def _matrices(axes):
    """Which parameters are matrices: a tree of bool like `axes`."""

    def is_matrix(path, leaf_axes):
        return path[-1].key != "bias" and sum(axis != "layers" for axis in leaf_axes) >= 2

    return jax.tree_util.tree_map_with_path(is_matrix, axes, is_leaf=_is_axes)


def _is_axes(x) -> bool:
    return isinstance(x, tuple)


DECAYS = ("b1", "b2", "beta", "decay")  # options of the rules that lie in [0, 1); the others are above 0


def _check(rule: str, **options: float) -> None:
    """Raises ValueError where a decay is not in [0, 1), or another option not above 0."""
    for name, value in options.items():
        if not (0 <= value < 1 if name in DECAYS else value > 0):
            raise ValueError(f"optimizer.{name}={value!r} of {rule!r} is not {'in [0, 1)' if name in DECAYS else 'above 0'}.")


def _moment(rule: str, dtype: str) -> jnp.dtype:
    if dtype not in MOMENTS:
        raise ValueError(f"optimizer.mu_dtype={dtype!r} of {rule!r} is not a dtype of moments; choose one of {', '.join(MOMENTS)}.")
    return jnp.dtype(dtype)


def _orthogonal_momentum(axes, beta: float, dtype: jnp.dtype) -> optax.GradientTransformation:
    """Orthogonalized Nesterov momentum of stacked matrices [layers, ...]: one side is "embed", or the rank; the rest is the other."""
    axes_by_path = dict(jax.tree.leaves_with_path(axes, is_leaf=_is_axes))

    def init(params):
        return optax.EmaState(jnp.zeros((), jnp.int32), jax.tree.map(lambda p: jnp.zeros_like(p, dtype=dtype), params))

    def update(gradients, state, params=None):
        count = optax.safe_increment(state.count)
        mean = jax.tree.map(lambda g, m: beta * m.astype(g.dtype) + (1 - beta) * g, gradients, state.ema)

        def direction(path, g, m):
            ahead = beta * m / (1 - beta ** (count + 1)) + (1 - beta) * g / (1 - beta**count)
            # One layer at a time: a matrix is gathered, and every device orthogonalizes the whole of it.
            return jax.lax.map(lambda x: _orthogonal(x, axes_by_path[path][1:]), ahead)

        updates = jax.tree_util.tree_map_with_path(direction, gradients, mean)
        return updates, optax.EmaState(count, jax.tree.map(lambda m: m.astype(dtype), mean))

    return optax.GradientTransformation(init, update)


def _orthogonal(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """About the nearest semi-orthogonal matrix to one layer's x, times what makes its root mean square RMS; laid out like x."""
    side = axes.index(RANK if RANK in axes else "embed")
    whole = jnp.moveaxis(sharding.shard(x, *(None,) * x.ndim), side, 0)
    m = whole.reshape(len(whole), -1)
    m = m.T if m.shape[0] > m.shape[1] else m
    m = m / (jnp.linalg.norm(m) + 1e-8)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = m @ m.T
        m = a * m + (b * gram + c * gram @ gram) @ m
    m = m if m.shape == (len(whole), whole.size // len(whole)) else m.T
    m = m * RMS * max(m.shape) ** 0.5
    return sharding.shard(jnp.moveaxis(m.reshape(whole.shape), 0, side), *axes)

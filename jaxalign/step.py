"""The train step: the only place that reduces over a batch, and with `init_state` and `eval_step` the only jit in training.

Losses and metrics travel as (sum, weight). Gradients of the *sum* are added up over microbatches in float32 and divided once by the
weight of the whole batch, so the number of microbatches, devices and padding rows changes nothing.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxalign import sharding
from jaxalign.types import Batch, Outputs, Terms, TrainState

Forward = Callable[..., Outputs]  # (params, batch, step) -> Outputs
Objective = Callable[[Outputs, Outputs | None, Batch], Terms]


def init_state(params, optimizer: optax.GradientTransformation, *, with_reference: bool, seed: int) -> TrainState:
    """The state before the first step. `params` is consumed; the reference is a copy of it, laid out the same way."""

    def init(params):
        reference = jax.tree.map(jnp.copy, params) if with_reference else None
        # Laid out as the step returns it: P() and P(None) are the same layout, but the step would compile for each of them.
        rng = sharding.shard(jax.random.key_data(jax.random.key(seed)), None)
        return TrainState(jnp.zeros((), jnp.int32), params, reference, optimizer.init(params), rng)

    return jax.jit(init, donate_argnums=0)(params)


def make_train_step(
    forward: Forward,
    objective: Objective,
    reference_rule: Callable,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    microbatches: int = 1,
):
    """(state, batch) -> (state, metrics), jitted, with the state donated.

    Metrics are float32 scalars over the whole batch: everything that the objective reports, loss, grad_norm (before clipping),
    learning_rate; a metric that no response of the batch has is NaN, a loss that none has is 0.

    Args:
      forward: of policy and reference alike.
      objective: its hyper-parameters bound.
      reference_rule: (reference, trainable, step) -> reference, applied after the update.
      microbatches: parts that the rows are split into; gradients are exact whatever their number.
    """

    def gradients(trainable, reference, batch, step):
        def loss_sum(trainable):
            sums = _sums(forward, objective, trainable, reference, batch, step)
            return sums["loss"][0], sums

        return jax.grad(loss_sum, has_aux=True)(trainable)

    def train_step(state: TrainState, batch: Batch):
        if microbatches == 1:
            total, sums = gradients(state.trainable, state.reference, batch, state.step)
        else:
            parts = split_batch(batch, microbatches)
            shapes = jax.eval_shape(gradients, state.trainable, state.reference, jax.tree.map(lambda x: x[0], parts), state.step)
            zeros = jax.tree.map(jnp.zeros_like, state.trainable), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[1])

            def add(carry, part):
                new = gradients(state.trainable, state.reference, part, state.step)
                return jax.tree.map(jnp.add, carry, new), None

            (total, sums), _ = jax.lax.scan(add, zeros, parts)
        weight = sums["loss"][1]
        gradient = jax.tree.map(lambda g: g / jnp.where(weight > 0, weight, 1.0), total)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics = {name: value / count for name, (value, count) in sums.items()}
        metrics |= {"loss": sums["loss"][0] / jnp.where(weight > 0, weight, 1.0)}  # a batch with nothing to train on has loss 0, not NaN
        metrics |= {"grad_norm": optax.tree.norm(gradient), "learning_rate": jnp.asarray(schedule(state.step), jnp.float32)}
        reference = reference_rule(state.reference, trainable, state.step + 1)
        return state.replace(step=state.step + 1, trainable=trainable, reference=reference, opt_state=opt_state), metrics

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(forward: Forward, objective: Objective, kl: Callable[[Outputs, Outputs, Batch], jax.Array]):
    """(state, batch) -> dict of (sum, weight), jitted: the objective's loss and metrics, and "kl" to the reference where there is one.

    Args:
      forward, objective: those of the train step.
      kl: float32[R, T] per scored token from the outputs of policy and reference.
    """

    def eval_step(state: TrainState, batch: Batch):
        extra = None if state.reference is None else lambda policy, reference: {"kl": (kl(policy, reference, batch), batch.slots >= 0)}
        return _sums(forward, objective, state.trainable, state.reference, batch, state.step, extra)

    return jax.jit(eval_step)


def split_batch(batch: Batch, parts: int) -> Batch:
    """Every array [R, ...] or [N, ...] -> [parts, R / parts, ...]; groups stay with their rows.

    Raises:
      ValueError: rows do not split into the parts, or the rows of a part over the devices.
    """
    rows, axes = batch.tokens.shape[0], sharding.mesh_shape()
    devices = axes["data"] * axes["fsdp"]
    if rows % (parts * devices):
        raise ValueError(
            f"batch.rows={rows} does not split into batch.microbatches={parts} of rows over data={axes['data']} x fsdp={axes['fsdp']} "
            f"= {devices} devices; choose a multiple of {parts * devices}."
        )
    return jax.tree.map(lambda x: sharding.split_axis(x, parts, rows), batch)


def _sums(forward, objective, trainable, reference, batch, step, extra=None):
    """name -> (sum of value * weight, sum of weight), float32 scalars; "loss" is among them."""
    policy = forward(trainable, batch, step)
    constant = None if reference is None else jax.lax.stop_gradient(forward(jax.lax.stop_gradient(reference), batch, step))
    terms = objective(policy, constant, batch)
    pairs = {"loss": (terms.loss, terms.weight)} | terms.metrics | (extra(policy, constant) if extra else {})
    return {name: _weighted_sum(value, weight) for name, (value, weight) in pairs.items()}


def _weighted_sum(value, weight):
    # where, not only a product: a filler's value may be anything, and 0 * inf is nan
    weight = jax.lax.stop_gradient(weight.astype(jnp.float32))
    return jnp.sum(jnp.where(weight > 0, value, 0.0) * weight), jnp.sum(weight)

"""The train step: the only place that reduces over a batch, and with `init_state` and `eval_step` the only jit in training.

Losses and metrics travel as (sum, weight). Gradients of the *sum* are added up over microbatches in float32 and divided once by the
weight of the whole batch, so the number of microbatches, devices and padding rows changes nothing. What an objective must know of the whole
batch (its `statistics`) is computed before the first gradient.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxalign import offload, sharding
from jaxalign.objectives import Objective
from jaxalign.training import microbatch
from jaxalign.training import reference as references
from jaxalign.training.metrics import rankings
from jaxalign.types import Batch, Outputs, TrainState, sum_responses

ROLLOUT_LOGPS = "rollout_logps"  # column float32[R, T]: log-probs of the policy that a rollout was drawn for, before it is trained on it
Forward = Callable[..., Outputs]  # (params, batch, step) -> Outputs


def init_state(
    params,
    optimizer: optax.GradientTransformation,
    *,
    rule: references.Rule,
    seed: int,
    keep_initial: bool = False,
    trained: tuple[str, ...] | None = None,
    silent: tuple[str, ...] = (),
    statistics: tuple[str, ...] = (),
    source: Callable[[], Any] = lambda: None,
    on_host: tuple[str, ...] = (),
) -> TrainState:
    """The state before the first step. `params` is consumed; the reference is a copy of it, laid out the same way, or None if separate.

    Args:
      rule: of the reference; specifies whether the state holds its weights.
      keep_initial: hold one more copy of what a moving reference starts from, to measure against.
      trained: top-level keys of params that are trained; None: all of them.
      silent: those of them without which the model is the same before the first step, as fresh adapters: a reference that stays has none.
      statistics: names of what the objective carries from step to step.
      source: makes what the source of the batches carries from step to step, a tree of arrays; by default nothing.
      on_host: parts that rest in the memory of the host, keys of `offload.FIELDS`.
    """

    def init(params):
        trainable = params if trained is None else {key: params[key] for key in trained}
        rest = None if trained is None else {key: value for key, value in params.items() if key not in trainable}
        start = {key: value for key, value in trainable.items() if key not in silent}
        holds = rule.holds == "weights" and not rule.separate
        reference = jax.tree.map(jnp.copy, trainable if rule.moves else start) if holds else None
        initial = jax.tree.map(jnp.copy, start) if keep_initial and rule.moves and holds else None
        # Laid out as the step returns it: P() and P(None) are the same layout, but the step would compile for each of them.
        rng = sharding.shard(jax.random.key_data(jax.random.key(seed)), None)
        zeros = {name: jnp.zeros((), jnp.float32) for name in statistics}
        step = jnp.zeros((), jnp.int32)
        state = TrainState(step, trainable, reference, optimizer.init(trainable), rng, rest, initial, zeros, source())
        return offload.place(state, on_host)

    return jax.jit(init, donate_argnums=0)(params)


def make_train_step(
    forward: Forward,
    objective: Objective,
    reference_rule: Callable,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    microbatches: int = 1,
    teacher: Forward | None = None,
):
    """(state, batch) -> (state, metrics), jitted, with the state donated.

    Metrics are float32 scalars over the whole batch: everything that the objective reports, `metrics.rankings`, loss, grad_norm (before
    clipping), learning_rate; a metric that no response of the batch has is NaN, a loss that none has is 0.

    Args:
      forward, teacher: of policy and reference alike, and of a reference that is another model; None: there is no other.
      objective: see `objectives.bind`.
      reference_rule: (reference, trainable, step) -> reference, applied after the update.
      microbatches: parts that the rows are split into; gradients are exact whatever their number.
    """
    outputs = partial(outputs_of, forward, teacher=teacher)

    def gradients(state, batch, statistics):
        def loss_sum(trainable):
            policy, constant = outputs(trainable, state.frozen, state.reference, batch, state.step)
            measured = _sums_of_statistics(objective, policy, constant, batch) if statistics is None else None
            known = _statistics(objective, state, measured) if statistics is None else statistics
            sums = {name: _weighted_sum(*pair) for name, pair in _measured(objective, policy, constant, batch, known).items()}
            return sums["loss"][0], (sums, known)

        return jax.grad(loss_sum, has_aux=True)(state.trainable)

    def train_step(state: TrainState, batch: Batch):
        if microbatches == 1:
            total, (sums, statistics) = gradients(state, batch, None)
        else:
            parts = microbatch.split(batch, microbatches)

            def measure(part):
                policy, constant = outputs(state.trainable, state.frozen, state.reference, part, state.step)
                return _sums_of_statistics(objective, policy, constant, part)

            statistics = _statistics(objective, state, microbatch.added_up(measure, parts) if state.statistics else {})

            def gradients_of(part):
                total, (sums, _) = gradients(state, part, statistics)
                return total, sums

            total, sums = microbatch.added_up(gradients_of, parts)
        gradient = jax.tree.map(lambda g: g / jnp.where(sums["loss"][1] > 0, sums["loss"][1], 1.0), total)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics = {name: value / count for name, (value, count) in sums.items()} | _means({"loss": sums["loss"]})
        metrics |= {"grad_norm": optax.tree.norm(gradient), "learning_rate": jnp.asarray(schedule(state.step), jnp.float32)}
        moved = offload.put_back(reference_rule(state.reference, trainable, state.step + 1), state.reference)
        after = {"trainable": trainable, "reference": moved, "opt_state": opt_state, "statistics": statistics}
        return state.replace(step=state.step + 1, **after), metrics

    return jax.jit(train_step, donate_argnums=0)


def skipping(train_step: Callable, largest_norm: float | None):
    """The train step, where one that is not finite, or whose gradient has a larger norm, changes nothing but the number of the step.

    The metric "skipped" is 1 for it and else 0. None: the same train step, in which every step counts.
    """
    if largest_norm is None:
        return train_step

    def careful_step(state: TrainState, batch: Batch):
        new, metrics = train_step(state, batch)
        counts = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"]) & (metrics["grad_norm"] <= largest_norm)
        kept = jax.tree.map(lambda after, before: jnp.where(counts, after, before), new, state)
        return kept.replace(step=new.step), metrics | {"skipped": 1.0 - counts.astype(jnp.float32)}

    return jax.jit(careful_step, donate_argnums=0)


def make_eval_step(
    forward: Forward, objective: Objective, kl: Callable[[Outputs, Outputs, Batch], jax.Array], *, teacher: Forward | None = None
):
    """(state, batch) -> {name: (sums, weights)}, jitted: the loss, the metrics of the train step, and "kl" to the reference, by prompt.

    Sums of value * weight and of weight over each of the N prompts are float32[N] twice, whole on every device: `held_out.evaluate` adds
    them up and computes standard errors, for which a prompt is one observation, however many responses and tokens it has.

    Where the state keeps the initial reference too, the same against it follows under "initial/": a moving reference makes loss and rewards
    jump at every move, so only those can be compared over time. Statistics are those of the batch given; running ones go on from those
    of the state, under "initial/" from none.

    Args:
      forward, objective, teacher: those of the train step.
      kl: float32[R, T] per scored token from the outputs of policy and reference.
    """

    def eval_step(state: TrainState, batch: Batch):
        def against(reference, state):
            policy, constant = outputs_of(forward, state.trainable, state.frozen, reference, batch, state.step, teacher=teacher)
            known = _statistics(objective, state, _sums_of_statistics(objective, policy, constant, batch))
            measured = _measured(objective, policy, constant, batch, known)
            if constant is not None and constant.hidden is not None:
                measured["kl"] = kl(policy, constant, batch), batch.slots >= 0
            return {name: _by_prompt(name, *pair, batch) for name, pair in measured.items()}

        if state.initial is None:
            return against(state.reference, state)
        # What the objective carries was seen against the moving reference; against the first one it has seen this batch only.
        fresh = state.replace(statistics=jax.tree.map(jnp.zeros_like, state.statistics))
        return against(state.reference, state) | {f"initial/{name}": pair for name, pair in against(state.initial, fresh).items()}

    return jax.jit(eval_step)


def make_policy_logps(forward: Forward, *, microbatches: int = 1):
    """(state, batch) -> float32[R, T]: log-probs of the policy on a batch, without a gradient. Not jitted.

    Args:
      microbatches: parts of the rows, one after the other, as of the train step: a batch needs no more memory here than there.
    """

    def policy_logps(state: TrainState, batch: Batch):
        def logps(part):
            return forward(_whole(state.trainable, state.frozen), part, state.step).logps

        return microbatch.joined(logps, batch, microbatches)

    return policy_logps


def make_rollout_look(
    forward: Forward,
    kl: Callable[[Outputs, Outputs, Batch], jax.Array],
    compute: Callable | None,
    *,
    teacher: Forward | None = None,
    microbatches: int = 1,
):
    """(state, batch) -> ({ROLLOUT_LOGPS: log-probs of the policy, float32[R, T], ...}, KL to the reference by response, float32[N, K]).

    The KL of a response is the sum of those of its tokens; None without a reference. A reference that moves comes near to the policy by
    itself, so the KL is to the initial one where the state keeps it. Not jitted.

    Args:
      forward, teacher: those of the train step.
      kl: of tokens, float32[R, T].
      compute: (policy, reference, batch, statistics of the state) -> further columns by name; None: there are none.
      microbatches: parts of the rows, see `make_policy_logps`.
    """

    def look_at(state: TrainState, batch: Batch):
        policy, constant = outputs_of(forward, state.trainable, state.frozen, state.reference, batch, state.step, teacher=teacher)
        first = constant
        if state.initial is not None:
            first = jax.lax.stop_gradient(forward(_whole(state.initial, state.frozen), batch, state.step))
        by_response = None if first is None else sum_responses(kl(policy, first, batch), batch)
        return {ROLLOUT_LOGPS: policy.logps, **(compute(policy, constant, batch, state.statistics) if compute else {})}, by_response

    return lambda state, batch: microbatch.joined(partial(look_at, state), batch, microbatches)


def outputs_of(forward, trainable, frozen, reference, batch, step, *, teacher=None):
    """(policy, reference): outputs of the policy and, without a gradient, of the reference, None if there is none.

    The reference is its weights, or where these are None the batch's column of its log-probs. Those of a teacher, which has a forward of
    its own, are whole; those of another one lack what is frozen.
    """
    policy = forward(_whole(trainable, frozen), batch, step)
    if reference is not None and teacher is not None:
        constant = teacher(jax.lax.stop_gradient(_whole(reference, None)), batch, step)
    elif reference is not None:
        constant = forward(jax.lax.stop_gradient(_whole(reference, frozen)), batch, step)
    elif references.COLUMN in batch.columns:
        constant = Outputs(batch.columns[references.COLUMN])
    else:
        return policy, None
    return policy, jax.lax.stop_gradient(constant)


def _whole(trainable, frozen):
    """The parameters, on the devices but for layers that rest on the host: the decoder brings these one at a time."""
    return offload.but_layers_on_device(trainable if frozen is None else {**frozen, **trainable})


def _sums_of_statistics(objective, policy, constant, batch):
    values = objective.statistics(jax.lax.stop_gradient(policy), constant, batch)
    return {name: _weighted_sum(*pair) for name, pair in values.items()}


def _statistics(objective, state, sums):
    return jax.lax.stop_gradient(objective.carry(state.statistics, _means(sums), state.step))


def _means(sums):
    """0, not NaN, where nothing has weight: a batch with nothing to train on has loss 0."""
    return {name: value / jnp.where(weight > 0, weight, 1.0) for name, (value, weight) in sums.items()}


def _measured(objective, policy, constant, batch, statistics):
    """name -> (values, weights) of what a step reports; "loss" is among them."""
    terms = objective.terms(policy, constant, batch, statistics)
    return {"loss": (terms.loss, terms.weight), **terms.metrics, **rankings(policy, constant, batch)}


def _weighted(value, weight):
    # where, not only a product: a filler's value may be anything, and 0 * inf is nan
    weight = jax.lax.stop_gradient(weight.astype(jnp.float32))
    return jnp.where(weight > 0, value, 0.0) * weight, weight


def _weighted_sum(value, weight):
    return tuple(jnp.sum(x) for x in _weighted(value, weight))


def _by_prompt(name, value, weight, batch):
    """(sums of value * weight, sums of weight) over everything that belongs to each prompt: float32[N] twice, on every device."""
    parts = _weighted(value, weight)
    if parts[0].shape == batch.tokens.shape:  # of tokens, of which those that are scored have weight
        parts = [sum_responses(x, batch) for x in parts]
    if parts[0].shape[0] != batch.valid.shape[0]:
        raise ValueError(f"metric {name!r} has the shape {parts[0].shape}; give [N, ...] for {batch.valid.shape[0]} prompts, or [R, T].")
    return tuple(sharding.shard(x.sum(tuple(range(1, x.ndim))), None) for x in parts)

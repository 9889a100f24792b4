"""Many tiny models trained at once by the ordinary step: every parameter has a leading axis of S seeds, and row s of a batch is seed s's.

The step's loss is a mean over all rows, so a seed's gradient is 1 / S of its own. Adam and RMSprop do not see that factor once their eps
has it too; see `rmsprop` and `adam`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxalign import objectives, sharding
from jaxalign.training import reference, step
from jaxalign.types import Batch, Outputs

EPS = 1e-8


def rmsprop(seeds: int, *, learning_rate: float) -> optax.GradientTransformation:
    """torch's RMSprop with decay 0.99 for every seed by itself."""
    return optax.chain(optax.scale_by_rms(decay=0.99, eps=EPS / seeds, eps_in_sqrt=False), optax.scale_by_learning_rate(learning_rate))


def adam(seeds: int, *, learning_rate: float) -> optax.GradientTransformation:
    """Adam with betas 0.9 and 0.999 for every seed by itself."""
    return optax.adam(learning_rate, eps=EPS / seeds)


def gradient_descent(seeds: int, *, learning_rate: float) -> optax.GradientTransformation:
    """Gradient descent for every seed by itself; the last gradient, of the mean over seeds, is `opt_state[0].trace`."""
    return optax.chain(optax.trace(decay=0.0), optax.scale_by_learning_rate(learning_rate * seeds))


def batch(groups: Sequence[Sequence[Sequence[int]]], *, seeds: int, paired: bool, reward: np.ndarray | None = None) -> Batch:
    """One row a seed, all the same: the responses of all groups one after the other, each a segment of its own with all tokens scored.

    Args:
      groups: groups[g][k] are the tokens of response k of group g; every group has equally many responses.
      seeds: S = R, number of rows.
      paired: whether response 0 of every group is preferred to response 1.
      reward: float[G, K]; 1 where not given.
    """
    count, each = len(groups), len(groups[0])
    responses = [tokens for group in groups for tokens in group]
    tokens = np.concatenate([np.asarray(x, np.int32) for x in responses])
    slots = np.concatenate([np.full(len(x), slot, np.int32) for slot, x in enumerate(responses)])
    positions = np.concatenate([np.arange(len(x), dtype=np.int32) for x in responses])
    reward = np.ones((count, each)) if reward is None else reward

    def rows(x):
        return jnp.asarray(np.tile(x, (seeds, *(1,) * (x.ndim - 1))) if x.ndim > 1 else np.tile(x, (seeds, 1)))

    return Batch(
        rows(tokens),
        rows(positions),
        rows(slots + 1),
        rows(np.zeros_like(slots)),
        rows(slots),
        reward=rows(np.asarray(reward, np.float32)),
        paired=jnp.full(seeds * count, paired),
        valid=jnp.ones((seeds * count, each), bool),
    )


def one_device():
    """The mesh that experiments run on, as a context."""
    return jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1]))


def train(
    forward: Callable[..., Outputs],
    params: dict,
    data: Batch,
    objective: objectives.Objective,
    optimizer: optax.GradientTransformation,
    *,
    measure: Callable[[dict], Any],
    at: Iterable[int],
    rule: str = "none",
    **options,
) -> dict[int, Any]:
    """Trains on the one batch again and again: step -> measure(params) after that many steps. `params` is not consumed.

    Args:
      forward: (params, batch, step) -> Outputs.
      measure: called with the parameters, leaves [S, ...].
      at: steps to measure at; the last is the length of the run.
      rule: of the reference; options are its own.
    """
    chosen = reference.RULES[rule]
    run = step.make_train_step(forward, objective, chosen.bind(**options), optimizer, optax.constant_schedule(0.0))
    state = step.init_state(jax.tree.map(jnp.copy, params), optimizer, rule=chosen, seed=0)
    at, found = sorted(set(at)), {}
    for done in range(at[-1] + 1):
        if done in at:
            found[done] = measure(state.trainable)
        if done < at[-1]:
            state, _ = run(state, data)
    return found


def final(forward, params, data, objective, optimizer, *, steps: int) -> dict:
    """The parameters after so many steps without a reference."""

    def copied(params):
        return jax.tree.map(jnp.copy, params)

    return train(forward, params, data, objective, optimizer, measure=copied, at=[steps])[steps]

"""A run's own step on its own rows, in float32, with what can be compared: metrics, gradients, log-probs.

The gradient is read from the train step itself, by an optimizer that keeps it and moves nothing.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import optax

from jaxalign import offload
from jaxalign.data.rows import loader
from jaxalign.objectives import Objective
from jaxalign.training import reference as references
from jaxalign.training import step as steps
from jaxalign.types import TrainState

PRECISION = "highest"  # of float32 products, which TPUs make of bfloat16 otherwise


def recorder() -> optax.GradientTransformation:
    """An optimizer whose state is the last gradient and whose updates are 0."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradient, _, params=None: (jax.tree.map(jnp.zeros_like, gradient), gradient),
    )


@dataclasses.dataclass
class Subject:
    """What is checked, on the mesh in scope.

    `state` is a TrainState before the first step whose optimizer is the recorder. Batches are dicts of numpy arrays as from
    `pack.assemble`; every process has all of their rows.
    """

    look: Callable[..., Any]  # (params, batch, step) -> Outputs in the run's dtype
    exact: Callable[..., Any]  # the same in float32
    teacher: Callable[..., Any] | None
    objective: Objective
    state: TrainState
    _compiled: dict = dataclasses.field(default_factory=dict)

    @property
    def params(self) -> dict:
        """The whole parameters."""
        return {**(self.state.frozen or {}), **self.state.trainable}

    def measure(self, arrays: Mapping, *, parts: int = 1) -> dict[str, float]:
        """Metrics of a step on a batch, in float32 and in so many microbatches; `gradient` is that of this step afterwards."""
        if parts not in self._compiled:
            self._compiled[parts] = steps.make_train_step(
                self.exact, self.objective, references.frozen, recorder(), lambda step: 0.0, microbatches=parts, teacher=self.teacher
            )
        state = self.state.replace(step=jnp.zeros((), jnp.int32), statistics=jax.tree.map(jnp.zeros_like, self.state.statistics))
        with jax.default_matmul_precision(PRECISION):
            self.state, metrics = self._compiled[parts](state, loader.shared(arrays))
        return {name: float(value) for name, value in metrics.items()}

    @property
    def gradient(self) -> dict:
        """The gradient of the last `measure`."""
        return self.state.opt_state

    def logps(self, arrays: Mapping, *, params=None, exact: bool = True, step: int = 0) -> np.ndarray:
        """Log-probs float32[R, T] of the policy, or of other parameters, on a batch: all rows, on every process."""
        key = "exact" if exact else "look"
        if key not in self._compiled:
            look = self.exact if exact else self.look
            self._compiled[key] = jax.jit(lambda params, batch, step: look(params, batch, step).logps)
        with jax.default_matmul_precision(PRECISION if exact else None):
            logps = self._compiled[key](self.params if params is None else params, loader.shared(arrays), jnp.int32(step))
        return np.asarray(multihost_utils.process_allgather(logps, tiled=True))

    def mean_logp(self, arrays: Mapping) -> Callable:
        """trained parameters -> (mean log-prob of the scored tokens, its gradient), in float32."""
        batch, frozen = loader.shared(arrays), self.state.frozen or {}

        def mean(trainable, frozen, batch):
            scored = (batch.slots >= 0).sum()
            return self.exact({**frozen, **trainable}, batch, jnp.int32(0)).logps.sum() / jnp.maximum(scored, 1)

        function = jax.jit(jax.value_and_grad(mean))

        def call(trainable):
            with jax.default_matmul_precision(PRECISION):
                return function(trainable, frozen, batch)

        return call


def copied(tree):
    """The same arrays in other memory, which a donation does not take."""
    return jax.tree.map(jnp.copy, tree)


@jax.jit
def checksums(tree) -> list[jax.Array]:
    """A sum of the bits of every array: equal for equal arrays."""
    arrays = jax.tree.leaves(offload.on_device(tree))
    return [jnp.sum(jax.lax.bitcast_convert_type(x, jnp.uint32)) for x in arrays if x.dtype == jnp.float32]


def difference(first, second) -> float:
    """|first - second| / |first| over all arrays of two trees."""
    apart, whole = _norms(first, second)
    return float(apart) / max(float(whole), 1e-30)


@jax.jit
def _norms(first, second):
    return optax.tree.norm(jax.tree.map(jnp.subtract, first, second)), optax.tree.norm(first)


@jax.jit
def leaf_norms(tree) -> list[jax.Array]:
    """The norm of every array."""
    return [jnp.sqrt(jnp.sum(jnp.square(x))) for x in jax.tree.leaves(tree)]


def unequal(first: Sequence[jax.Array], second: Sequence[jax.Array]) -> list[int]:
    """The places at which two lists have arrays of other bits, the same on every process; each compares the parts that it holds."""
    bad = np.array([not _same_here(one, other) for one, other in zip(first, second, strict=True)], bool)
    return np.flatnonzero(np.asarray(multihost_utils.process_allgather(bad)).reshape(-1, len(bad)).any(0)).tolist()


def _same_here(first, second):
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    parts = zip(first.addressable_shards, jax.device_put(second, first.sharding).addressable_shards, strict=True)
    return all(np.array_equal(_bits(one.data), _bits(other.data)) for one, other in parts)


def _bits(x) -> np.ndarray:
    return np.atleast_1d(np.asarray(x)).view(np.uint8)


def moved(tree, path, direction, size):
    """The tree with one of its arrays, named by its path, moved by `size` times a direction."""
    return jax.tree_util.tree_map_with_path(lambda own, x: x + size * direction if own == path else x, tree)

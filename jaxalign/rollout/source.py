"""Where the batches of a run come from: prepared rows as they are, or with numbers that the policy of the moment gives them.

A source is asked for the batch of every step in turn, `next(state, step) -> (state, arrays, batch)`: `arrays` are this host's numpy arrays,
`batch` is the global one on the devices. What a source carries from step to step is part of the state, and so of every checkpoint.
"""

from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp

from jaxalign import sharding
from jaxalign.data.rows import loader
from jaxalign.types import Array, Batch, TrainState


class Rows:
    """The batches of a dataset as they are.

    Args:
      dataset: element [step] is this host's part of the batch of that step, see `loader.batches`.
      start: the first step that is asked for.
    """

    def __init__(self, dataset: grain.MapDataset, start: int):
        self._dataset, self._arrays = dataset, loader.iterate(dataset, start)

    def next(self, state: TrainState, step: int) -> tuple[TrainState, dict, Batch]:
        """(the state, this host's arrays, the batch) of a step; the steps follow one another."""
        arrays = next(self._arrays)
        return state, arrays, loader.to_device(arrays)


class PolicyLogps(Rows):
    """The same batches with one more column of tokens: log-probs of the policy as it was at the last multiple of `every` steps.

    They are computed for all batches up to the next multiple at once, while the policy is what it was; they take 4 bytes per token.

    Args:
      dataset, start: as for `Rows`; a state of a step in between carries the log-probs that were computed before it.
      policy_logps: (state, batch) -> float32[R, T].
      column: name of the column.
      every: steps from one computation to the next.
    """

    def __init__(self, dataset: grain.MapDataset, start: int, *, policy_logps: Callable[..., Array], column: str, every: int):
        super().__init__(dataset, start)
        self._column, self._every = column, every

        def write(table, state, batch, entry):
            return jax.lax.dynamic_update_index_in_dim(table, policy_logps(state, batch), entry, 0)

        self._write = jax.jit(write, donate_argnums=0)
        self._read = jax.jit(lambda table, entry: jax.lax.dynamic_index_in_dim(table, entry, keepdims=False))

    @staticmethod
    def carried(every: int, rows: int, row_tokens: int) -> dict[str, Any]:
        """What the state carries: {"logps": float32[every, R, T]}, zeros; entry step % every is for the batch of that step."""
        return {"logps": jnp.zeros((every, rows, row_tokens), jnp.float32, out_sharding=sharding.spec(None, "rows", None))}

    def next(self, state: TrainState, step: int) -> tuple[TrainState, dict, Batch]:
        """As of `Rows`; at a multiple of `every` the state's log-probs are computed anew first."""
        if step % self._every == 0:
            state = self._computed(state, step)
        state, arrays, batch = super().next(state, step)
        logps = self._read(state.source["logps"], jnp.int32(step % self._every))
        return state, arrays, batch.replace(columns={**batch.columns, self._column: logps})

    def _computed(self, state, step):
        table, plain = state.source["logps"], state.replace(source=None)
        for entry, arrays in zip(range(self._every), loader.iterate(self._dataset, step), strict=False):  # the last window may be cut
            table = self._write(table, plain, loader.to_device(arrays), jnp.int32(entry))
        return state.replace(source={"logps": table})

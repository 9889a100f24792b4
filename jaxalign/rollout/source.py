"""Where the batches of a run come from: prepared rows, perhaps with numbers of the policy of the moment, or what a model says just then.

A source is asked for the batch of every step in turn, `next(state, step) -> (state, arrays, batch)`: `arrays` are this host's numpy arrays,
`batch` is the global one on the devices. What a source carries from step to step is part of the state, and so of every checkpoint.
"""

from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import sharding
from jaxalign.data.rows import loader
from jaxalign.objectives.families.adaptive_kl import FIRST_VISIT
from jaxalign.rollout.layout import Layout
from jaxalign.rollout.prompts import COIN, generator
from jaxalign.rollout.window import NAME, Windows
from jaxalign.types import Array, Batch, TrainState


class Rows:
    """The batches of a dataset as they are.

    Args:
      dataset: element [step] is this host's part of the batch of that step, see `loader.batches`.
      start: the first step that is asked for.
    """

    def __init__(self, dataset: grain.MapDataset, start: int):
        self._dataset, self._arrays = dataset, loader.iterate(dataset, start)

    def news(self) -> tuple[dict[str, float], list[str]]:
        """(metrics, lines for a reader) of what the last `next` made beside the batch; empty where it made nothing."""
        return {}, []

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


class Rollouts:
    """Batches of what a model says to prompts: at every multiple of `every` steps those of the steps up to the next multiple are made.

    Of these `every / epochs` are distinct; they follow one another, `epochs` times, and the column FIRST_VISIT tells the first time. With a
    share below 1 a coin per step decides, by the seed and the step, between a rollout and the batch that a dataset has for that step.
    The last window is whole, whatever the length of the run, so that a longer run goes on with the same numbers.

    Args:
      dataset: as for `Rows`; read only with a share below 1.
      windows: makes the batches.
      every, epochs: steps from one window to the next, and visits of each of its batches.
      speaker: state -> parameters of the decoder that speaks.
      look: (state, batch) -> (columns by name, KL to the reference of every response float32[N, K], or None). Jitted here.
      finish: (all batches of the table, which of them are of this window) -> columns of all of them; None: nothing. Jitted here.
      share: of the steps that are rollouts at first and at the end, in [0, 1]; None for the second: the same.
      steps: length of the run without an extension, over which the share goes from one to the other in a line.
      seed: of the coins.
    """

    def __init__(
        self,
        dataset: grain.MapDataset | None,
        start: int,
        *,
        windows: Windows,
        every: int,
        epochs: int,
        speaker: Callable,
        look: Callable,
        finish: Callable | None = None,
        share: tuple[float, float | None],
        steps: int,
        seed: int,
    ):
        self._dataset, self._windows, self._every, self._distinct = dataset, windows, every, every // epochs
        self._speaker, self._shares, self._steps, self._seed = speaker, share, steps, seed
        self._arrays: dict[int, dict] = {}  # number of a batch -> this host's arrays, of the window of the moment
        self._news: tuple[dict[str, float], list[str]] = {}, []

        def write(window, state, batch, entry):
            columns, kl = look(state, batch)
            batch = batch.replace(columns={**batch.columns, **columns})
            put = jax.tree.map(lambda x, new: jax.lax.dynamic_update_index_in_dim(x, new, entry, 0), window, vars(batch))
            return put, None if kl is None else (jnp.sum(jnp.where(batch.valid, kl, 0.0)), jnp.sum(batch.valid))

        def read(window, entry, first):
            fields = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, entry, keepdims=False), window)
            visit = jnp.where(first, jnp.ones_like(fields["reward"]), 0.0)
            return fields | {"columns": fields["columns"] | {FIRST_VISIT: visit}}

        def finished(window, made):
            return window | {"columns": window["columns"] | finish(Batch(**window), made)}

        self._write, self._read = jax.jit(write, donate_argnums=0), jax.jit(read)
        self._finished = jax.jit(finished, donate_argnums=0) if finish else lambda window, made: window

    @staticmethod
    def carried(layout: Layout, batches: int) -> dict[str, Any]:
        """What the state carries: so many batches of padding, a dict of the fields of `types.Batch`, one after the other."""
        arrays = layout.empty(layout.rows)
        for names, like in ((layout.token_columns, "tokens"), (layout.computed, "reward")):
            arrays["columns"] |= {name: np.zeros(arrays[like].shape, np.float32) for name in names}

        def repeated(x):
            return jnp.full((batches, *x.shape), x.flat[0], x.dtype, out_sharding=sharding.spec(None, "rows", *(None,) * (x.ndim - 1)))

        return jax.tree.map(repeated, arrays)

    def next(self, state: TrainState, step: int) -> tuple[TrainState, dict, Batch]:
        """(the state, this host's arrays, the batch) of a step; at a multiple of `every` the state's window is made anew first."""
        self._news = {}, []
        if step % self._every == 0:
            state = self._begun(state, step)
        if not self._is_rollout(step):
            arrays = self._dataset[step]
            return state, arrays, loader.to_device(arrays)
        visit, entry = divmod(step % self._every, self._distinct)
        fields = self._read(state.source, jnp.int32(entry), jnp.bool(visit == 0))
        if entry not in self._arrays:  # of a run that is continued
            self._arrays[entry] = _local(fields)
        return state, self._arrays[entry], Batch(**fields)

    def news(self) -> tuple[dict[str, float], list[str]]:
        """As of `Rows`: of the window, where the last `next` began one."""
        return self._news

    def _is_rollout(self, step):
        first, last = self._shares
        share = first if last is None else first + (last - first) * min(1.0, step / max(self._steps - 1, 1))
        return share >= 1 or generator(self._seed, COIN, step).random() < share

    def _begun(self, state, step):
        entries = [entry for entry in range(self._distinct) if self._is_rollout(step + entry)]
        if not entries:
            return state
        first = step // self._every * self._distinct
        window = self._windows.draw(self._speaker(state), [first + entry for entry in entries], step=step)
        self._arrays = {entry: window.arrays[first + entry] for entry in entries}
        table, plain, sums = state.source, state.replace(source=None), []
        for entry, arrays in self._arrays.items():
            table, kl = self._write(table, plain, loader.to_device(arrays), jnp.int32(entry))
            sums.append(jax.device_get(kl))  # one after the other: queued programs of several CPU processes can hang
        # waited for, likewise
        table = jax.block_until_ready(self._finished(table, np.isin(np.arange(self._distinct), entries)))
        if None not in sums:
            total, count = np.sum(sums, 0)
            if count:  # else nothing is laid into rows, as where all samples are equal, and no KL is known
                window.metrics[f"{NAME}/kl"] = float(total / count)
        self._news = window.metrics, window.lines
        return state.replace(source=table)


def _local(fields) -> dict:
    """This host's rows of a batch on the devices, as numpy arrays."""

    def rows(x):
        parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])

    return jax.tree.map(rows, fields)

"""A model that gives numbers to prepared rows: log-probs of their tokens, values of their prompts, or rewards of their responses.

Several processes score one set together; each gets the numbers of all.
"""

from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from jaxalign import types
from jaxalign.data import progress
from jaxalign.data.rows import columns, loader, store
from jaxalign.manifest import content_hash
from jaxalign.models import model as models
from jaxalign.training import forward
from jaxalign.training.sources import Source

LOGPS_TOLERANCE = 0.1  # nats per token, on average, by which bfloat16 log-probs may differ when they are computed again
VALUES_TOLERANCE = 0.02  # the same of values, as a share of the largest
REWARDS_TOLERANCE = 0.1  # the same of rewards, of which 1 is a usual distance


@dataclasses.dataclass(frozen=True)
class Scorer:
    """One model, ready to look at rows."""

    name: str  # as the user wrote it
    model: models.Model
    params: Any
    weights: str  # a hash of the weights
    dtype: jnp.dtype  # of the matmuls
    look: Any  # (params, batch) -> float32[R, T] per token, or [N, K] per response, jitted
    tolerance: float  # by which numbers may differ on average when they are computed again
    attention: str  # the implementation


def of_model(
    name: str,
    model: models.Model,
    params,
    *,
    weights: str,
    dtype,
    attention: str,
    gives: str = "logps",
    tolerance: float = LOGPS_TOLERANCE,
) -> Scorer:
    """The scorer of a model in memory, on the mesh in scope; `gives` is what it reads of `types.Outputs`."""
    options = {"dtype": dtype, "remat": "none", "attention": attention}

    def look(params, batch: types.Batch):
        return getattr(forward.next_token(model, params, batch, jnp.int32(0), **options), gives)

    tolerance = 1e-3 if dtype == jnp.float32 else tolerance
    return Scorer(name, model, params, weights, jnp.dtype(dtype), jax.jit(look), tolerance, attention)


def of_source(name: str, *, dtype, attention: str) -> Scorer:
    """The scorer of a named model: a Hugging Face folder, "package:NAME", a name on the hub, or a run.

    Raises:
      FileNotFoundError, ValueError: there is no such model, or it cannot be read.
    """
    source = Source(name)
    model = models.build(source.config())
    return of_model(name, model, source.load(model), weights=weights_of(source), dtype=dtype, attention=attention)


def of_value_run(name: str, *, rewards: tuple[str, ...], dtype, attention: str) -> Scorer:
    """The scorer of a run that trained a value head on the sum of these reward columns.

    Raises:
      ValueError: the run has no value head, or it learned other rewards.
      CheckpointError: there is no run, or it cannot be read.
    """
    source = Source(name)
    model, params, run = source.restore()
    if models.VALUE_HEAD not in params:
        raise ValueError(f"data.computed: model={name!r} is a run without a value head; name one of objective 'value'.")
    learned = tuple(run["config"]["objective"].get("rewards", rewards))
    if set(learned) != set(rewards):
        raise ValueError(
            f"data.computed: rewards={rewards} of an advantage, and the value head of {name} learned {learned}; "
            "an advantage is a reward less what that very reward is on average: sum the same on both sides."
        )
    tolerance = VALUES_TOLERANCE * run["value_head"]  # values lie between 0 and this
    options = {"dtype": dtype, "attention": attention, "gives": "prompt_values", "tolerance": tolerance}
    return of_model(name, model, params, weights=weights_of(source), **options)


def of_reward_model(name: str, *, dtype, attention: str) -> Scorer:
    """The scorer of a reward model: a run with a reward head, or the folder or hub name of a sequence classifier with one label.

    Raises:
      FileNotFoundError, ValueError: as `reward_source`, or its weights cannot be read.
    """
    source = reward_source(name)
    model = source.reward_model()
    options = {"dtype": dtype, "attention": attention, "gives": "rewards", "tolerance": REWARDS_TOLERANCE}
    return of_model(name, model, source.load(model), weights=weights_of(source), **options)


def reward_source(name: str) -> Source:
    """The source of a reward model that reads text.

    Raises:
      FileNotFoundError, ValueError: there is no such model, it has no reward head, or its head reads declared features of an answer.
    """
    source = Source(name)
    if source.reward_model().features is not None:
        raise ValueError(f"{name} scores declared features of an answer and reads no text; name one of model.reward_head='linear'.")
    return source


def weights_of(source: Source) -> str:
    """A hash of the weights of a named model and of its config."""
    return content_hash({"weights": source.identity(), "config": str(source.decoder())})


def tokens(scorer: Scorer, prepared: store.Prepared, *, rows: int, quiet: bool) -> np.ndarray:
    """Log-prob of every token in the order of the set's own arrays, donors' tokens at the end: float64; NaN where none was computed.

    Args:
      rows: of a batch.
    """
    groups = prepared.groups
    donated = 0 if groups.donors is None else int(groups.donors[:, 2].sum())
    numbers = columns.numbered(len(groups.tokens) + donated, split=len(groups.tokens), donors=groups.donors is not None)
    out = np.full(len(groups.tokens) + donated, np.nan)
    for at, values in _looks(scorer, prepared, numbers, rows=rows, quiet=quiet):
        out[at[at >= 0]] = _finite(values[at >= 0], scorer)
    return out


def responses(scorer: Scorer, prepared: store.Prepared, *, rows: int, quiet: bool) -> np.ndarray:
    """The output of a value head or a reward head for every response: float64[n, K]; NaN where none was computed."""
    shape = prepared.groups.reward.shape
    out = np.full(shape, np.nan).reshape(-1)
    for at, values in _looks(scorer, prepared, columns.numbered_responses(shape), rows=rows, quiet=quiet):
        out[at[at >= 0]] = _finite(values[at >= 0], scorer)
    return out.reshape(shape)


def _finite(values, scorer):
    if not np.isfinite(values).all():
        raise ValueError(
            f"model {scorer.name} produced non-finite values; its weights are corrupt or its training diverged. Choose another checkpoint."
        )
    return values


def _looks(scorer, prepared, numbers: Mapping[str, np.ndarray], *, rows, quiet) -> Iterable:
    """(place of every token or response in the set, the scorer's numbers) batch by batch."""
    plain = dataclasses.replace(prepared, groups=dataclasses.replace(prepared.groups, columns=numbers))
    hosts = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    whole = loader.eval_batches(plain, rows=rows)
    with progress.bar(len(whole), f"annotating {prepared.folder.parent.name}", quiet=quiet) as advance:
        for arrays, here in zip(whole, loader.eval_batches(plain, rows=rows, **hosts), strict=True):
            result = scorer.look(scorer.params, loader.to_device({**here, "columns": {}}))
            if jax.process_count() > 1:
                result = multihost_utils.process_allgather(result, tiled=True)
            yield columns.places(arrays["columns"]), jax.device_get(result)
            advance(1)

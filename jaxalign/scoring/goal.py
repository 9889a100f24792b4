"""How near each token of an answer is to the goal of a reward model, and what its reward would be if the answer ended there.

The goal is the mean hidden state at the end of good answers (arXiv 2407.13887); the cosine of a token's state with it estimates, along the
answer, how good the answer will be. It belongs to the weights and to the way of writing text that it was made with, and is refused for
others.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import json
import os
from pathlib import Path

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from jaxalign import sharding, types
from jaxalign.data import progress
from jaxalign.data.rows import columns, loader, pack, store
from jaxalign.models import heads
from jaxalign.models import model as models
from jaxalign.scoring.scorer import Scorer

VERSION = 1
LEAST_TOKENS = 128  # of a row of steps
WRITING = ("tokenizer", "template")  # of a prepared set's meta: how its text was written
SMALLEST_NORM = 1e-8


@dataclasses.dataclass(frozen=True)
class Goal:
    """The mean hidden state at the last token of good answers."""

    vector: np.ndarray  # float32[D]; not normalised
    weights: str  # a hash of the weights of the model that it belongs to
    answers: int  # that the mean was taken of
    writing: dict[str, str]  # how these were written: the tokenizer's hash and the template's name

    def save(self, file: Path) -> None:
        """Writes the goal as a JSON file, whole or not at all."""
        contents = {"version": VERSION, **dataclasses.asdict(self), "vector": [float(x) for x in self.vector]}
        partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
        try:
            partial.write_text(json.dumps(contents) + "\n", encoding="utf-8")
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, file: Path) -> "Goal":
        """The goal in a file that `save` wrote.

        Raises:
          FileNotFoundError, ValueError: there is no such file, or it is no goal.
        """
        try:
            contents = json.loads(file.read_text(encoding="utf-8"))
            if contents.pop("version") != VERSION:
                raise KeyError("version")
            vector = np.asarray(contents["vector"], np.float32)
            if vector.ndim != 1 or not np.isfinite(vector).all():
                raise ValueError("its vector is no list of finite numbers")
            return cls(**{**contents, "vector": vector})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is no goal of a reward model ({error}); make it again with `of_answers`.") from error

    def check(self, scorer: Scorer, prepared: store.Prepared | None = None) -> None:
        """Raises ValueError where the goal belongs to other weights than the scorer's, or to text written otherwise than in the set."""
        if self.weights != scorer.weights:
            raise ValueError(f"the goal belongs to other weights than those of {scorer.name}; make it again from its good answers.")
        if self.vector.shape != (width := (scorer.model.config.width,)):
            raise ValueError(f"the goal has {self.vector.shape} numbers and {scorer.name} states of {width}; make it again.")
        ours = writing(prepared) if prepared is not None else self.writing
        if ours != self.writing:
            raise ValueError(
                f"the goal was made of answers written with {self.writing}, and {prepared.folder.parent.name} is written with {ours}; "
                "prepare it with the template and tokenizer of the reward model's training."
            )


def writing(prepared: store.Prepared) -> dict[str, str]:
    """How the text of a set was written: the tokenizer's hash and the template's name."""
    return {name: prepared.meta.get(name, "") for name in WRITING}


def of_answers(scorer: Scorer, prepared: store.Prepared, *, rows: int, quiet: bool) -> Goal:
    """The goal: the mean over the good answers of a set, which should be the training set.

    Good are the first answers of pairs, and of answers judged one by one those of a reward above 1/2.

    Args:
      scorer: a model with or without a reward head.
      rows: of a batch.

    Raises:
      ValueError: the set has no good answer.
    """
    look, total, count = _ends(*_way(scorer)), 0.0, 0.0
    for _, batch in _batches(prepared, {}, rows=rows, quiet=quiet, doing="reading good answers of"):
        summed, counted = jax.device_get(look(scorer.params, batch))
        total, count = total + summed.astype(np.float64), count + float(counted)
    if not count:
        raise ValueError(f"{prepared.folder.parent.name} has no good answer to make a goal of; give pairs, or rewards above 1/2.")
    return Goal((total / count).astype(np.float32), scorer.weights, int(count), writing(prepared))


def joined(goals: Sequence[Goal]) -> Goal:
    """The goal of all answers that these goals of one model were made of.

    Raises:
      ValueError: there is none, or they belong to different weights or ways of writing.
    """
    if not goals:
        raise ValueError("there is no set of answers to make a goal of; name a run that trained on rows.")
    if len({one.weights for one in goals}) > 1 or any(one.writing != goals[0].writing for one in goals):
        raise ValueError("these goals belong to different weights, or to text that is written differently; make one of a set at a time.")
    count = sum(one.answers for one in goals)
    vector = sum(one.vector.astype(np.float64) * (one.answers / count) for one in goals)
    return dataclasses.replace(goals[0], vector=np.asarray(vector, np.float32), answers=count)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a reward model thinks along an answer: float64[L] each, of its scored tokens."""

    group: int  # of the prepared set
    response: int
    rewards: np.ndarray  # the reward head's score if the answer ended at this token; the last is the answer's reward
    cosines: np.ndarray  # Q: of the token's state and the goal


def along(scorer: Scorer, prepared: store.Prepared, goal: Goal, *, rows: int, quiet: bool) -> list[Answer]:
    """Rewards and cosines along every valid answer of a set, in its order.

    Args:
      scorer: a model with a reward head.
      goal: of this very model.
      rows: of a batch.

    Raises:
      ValueError: the goal belongs to other weights or to text written otherwise, or the model has no reward head.
    """
    goal.check(scorer, prepared)
    if scorer.model.reward_head is None or scorer.model.features is not None:
        raise ValueError(f"{scorer.name} has no reward head on hidden states; name a run of objective 'reward' or 'goal_reward'.")
    groups, vector, look = prepared.groups, jnp.asarray(goal.vector), _along(*_way(scorer))
    numbers = np.full((2, len(groups.tokens)), np.nan)
    places = columns.numbered(len(groups.tokens), split=len(groups.tokens), donors=False)
    for arrays, batch in _batches(prepared, places, rows=rows, quiet=quiet, doing="reading"):
        values = look(scorer.params, batch.replace(columns={}), vector)
        values = multihost_utils.process_allgather(values, tiled=True) if jax.process_count() > 1 else values
        at = columns.places(arrays["columns"])
        numbers[:, at[at >= 0]] = _finite(np.stack(jax.device_get(values))[:, at >= 0], scorer)
    return list(_answers(groups, numbers))


def of_steps(scorer: Scorer, before: Sequence[int], steps: Sequence[Sequence[int]], goal: Goal) -> np.ndarray:
    """The cosine of the goal and the mean state of each step, float64[n], where all steps go on from the tokens before.

    Raises:
      ValueError: the goal belongs to other weights.
    """
    goal.check(scorer)
    lengths = [len(before), *map(len, steps)]
    groups = pack.Groups(
        np.concatenate([np.asarray(ids, np.int32) for ids in (before, *steps)]),
        np.repeat(np.array([0, *[1] * len(steps)], np.uint8), lengths),
        np.cumsum([0, *lengths]),
        *(np.ones((1, len(steps)), np.float32), np.zeros(1, bool), np.ones((1, len(steps)), bool)),
    )
    row_tokens = LEAST_TOKENS
    while row_tokens < pack.group_tokens(groups, share_prompt=True)[0]:
        row_tokens *= 2  # so that few programs are compiled
    plan = np.full((int(np.prod([sharding.mesh_shape()[axis] for axis in ("data", "fsdp")])), 1), -1, np.int32)
    plan[0] = 0
    batch = loader.to_device(pack.assemble(groups, plan, row_tokens=row_tokens, share_prompt=True))
    return np.asarray(jax.device_get(_means(*_way(scorer))(scorer.params, batch, jnp.asarray(goal.vector))), np.float64)[0]


def _answers(groups, numbers) -> Iterator[Answer]:
    responses = groups.valid.shape[1]
    for group, response in zip(*np.nonzero(groups.valid), strict=True):
        piece = group * (responses + 1) + 1 + response
        span = slice(int(groups.offsets[piece]), int(groups.offsets[piece + 1]))
        scored = numbers[:, span][:, groups.scored[span] > 0]
        if scored.shape[1] and not np.isnan(scored).any():  # of a plan that leaves a group out there are no numbers
            yield Answer(int(group), int(response), *scored)


def _batches(prepared, columns, *, rows, quiet, doing):
    """(the whole batch on the host, the batch on the devices) one after the other."""
    plain = dataclasses.replace(prepared, groups=dataclasses.replace(prepared.groups, columns=columns, donors=None))
    hosts = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    whole = loader.eval_batches(plain, rows=rows)
    with progress.bar(len(whole), f"{doing} {prepared.folder.parent.name}", quiet=quiet) as advance:
        for arrays, here in zip(whole, loader.eval_batches(plain, rows=rows, **hosts), strict=True):
            yield arrays, loader.to_device(here)
            advance(1)


def _finite(values: np.ndarray, scorer: Scorer) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError(f"model {scorer.name} produced non-finite values; its weights are corrupt or its training diverged.")
    return values


def _way(scorer: Scorer) -> tuple:
    """What the functions below are compiled for."""
    return scorer.model, scorer.dtype, scorer.attention


def _hidden(model: models.Model, dtype, attention: str, params, batch: types.Batch) -> jax.Array:
    marks = batch.positions, batch.segments, batch.prefixes
    return models.hidden(model, params, batch.tokens, *marks, dtype=dtype, remat="none", attention=attention).astype(jnp.float32)


@functools.lru_cache(maxsize=4)
def _ends(model: models.Model, dtype, attention: str) -> Callable:
    """(params, batch) -> (the sum of the last states of good answers float32[D], their number), jitted."""

    def ends(params, batch: types.Batch):
        last = heads.last_tokens(batch.positions, batch.slots, batch.valid.size // len(batch.slots))
        preferred = jnp.where(batch.paired[:, None], jnp.arange(batch.valid.shape[1]) == 0, batch.reward > 0.5)
        good = types.at_tokens((batch.valid & preferred).astype(jnp.float32), batch) * last.any(1)
        exact, where = {"precision": jax.lax.Precision.HIGHEST, "out_sharding": sharding.spec(None)}, sharding.shard(good, "rows", "tokens")
        return jnp.einsum("rt,rtd->d", where, _hidden(model, dtype, attention, params, batch), **exact), good.sum()

    return jax.jit(ends)


@functools.lru_cache(maxsize=4)
def _means(model: models.Model, dtype, attention: str) -> Callable:
    """(params, batch, goal) -> the cosine of the goal and of the mean state of every response, float32[N, K], jitted."""

    def look(params, batch: types.Batch, goal):
        hidden, count = _hidden(model, dtype, attention, params, batch), batch.valid.size // len(batch.slots)
        summed = sharding.sum_tokens(batch.slots[:, None] == jnp.arange(count)[:, None], hidden)
        return cosine(summed, goal).reshape(batch.valid.shape, out_sharding=jax.typeof(batch.valid).sharding)

    return jax.jit(look)


@functools.lru_cache(maxsize=4)
def _along(model: models.Model, dtype, attention: str) -> Callable:
    """(params, batch, goal) -> (rewards, cosines), float32[R, T] each, jitted."""

    def look(params, batch: types.Batch, goal):
        hidden = _hidden(model, dtype, attention, params, batch)
        return models.token_rewards(model, params, hidden), cosine(hidden, goal)

    return jax.jit(look)


def cosine(states: jax.Array, goal: jax.Array) -> jax.Array:
    """The cosine of every state [..., D] with a goal [D], float32[...]; 0 for a state of zeros."""
    unit = goal / jnp.maximum(jnp.linalg.norm(goal), SMALLEST_NORM)
    dots = jnp.einsum("...d,d->...", states, unit, precision=jax.lax.Precision.HIGHEST)
    return dots / jnp.maximum(jnp.linalg.norm(states, axis=-1), SMALLEST_NORM)

"""The goal of a run with a reward head: made of the good answers that it trained on, and kept beside its checkpoints."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxalign.config import stored
from jaxalign.config.prepared import prepared_sets
from jaxalign.config.resolve import resolve
from jaxalign.data.text.renderer import Renderer
from jaxalign.scoring import goal, scorer
from jaxalign.scoring.scorer import Scorer
from jaxalign.training import runs
from jaxalign.training.sources import Source

FOLDER = "goals"  # of a run; holds STEP.json


class Guide(NamedTuple):
    """A reward model with its goal."""

    judge: Scorer
    aim: goal.Goal


def training_of(name: str) -> ConfigDict:
    """The resolved configuration of a run, which names the answers that its goal is made of. Not within a mesh.

    Args:
      name: RUN, RUN@best or RUN@STEP.

    Raises:
      ValueError, FileNotFoundError: it is no run, or has no reward head on hidden states.
    """
    source = scorer.reward_source(name)
    if not source.is_run:
        raise ValueError(f"{name} is a folder of weights, and a goal is made of the answers that a run trained on; name the run.")
    record = runs.record(*source.place)
    config = ConfigDict(stored.settled(record["config"]))
    config.model.tokenizer = record["tokenizer"]
    return resolve(config)


def check_writing(name: str, renderer: Renderer) -> None:
    """Raises ValueError where a run was trained on text that is written otherwise than by the renderer of the model that it judges."""
    ours, theirs = renderer.identity(), Source(name).renderer().identity()
    if other := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
        raise ValueError(
            f"{name} was trained on text that is written otherwise than that of the model ({', '.join(other)}); set --template to that of "
            "its training, or train it from this model."
        )


def guide(name: str, cfg: ConfigDict, *, dtype: jnp.dtype, quiet: bool) -> Guide:
    """The reward model of a run and its goal, from WORKDIR/goals/STEP.json or from its training answers. Needs a mesh in scope.

    A file that holds no goal is written anew. Where none can be written, as in a folder that is only read, this is told.

    Args:
      name: RUN, RUN@best or RUN@STEP; `check_writing` passes it.
      cfg: its configuration, from `training_of`.

    Raises:
      ValueError, FileNotFoundError: its training rows are not there any more.
    """
    judge = scorer.of_reward_model(name, dtype=dtype, attention="xla")
    workdir, step = Source(name).place
    file = workdir / FOLDER / f"{step}.json"
    if (kept := _kept(file)) is not None and kept.weights == judge.weights:
        return Guide(judge, kept)
    aim = goal.joined([goal.of_answers(judge, one, rows=cfg.batch.rows, quiet=quiet) for one in prepared_sets(cfg).train])
    if jax.process_index() == 0:
        try:
            file.parent.mkdir(exist_ok=True)
            aim.save(file)
        except OSError as error:
            runs.to_stderr(f"the goal of {name} is not kept, and the next command makes it again: {error}")
    return Guide(judge, aim)


def _kept(file: Path) -> goal.Goal | None:
    """The goal in a file; None where there is none, or a file that cannot be read, as an interrupted save of earlier versions left."""
    try:
        return goal.Goal.load(file)
    except (ValueError, OSError):
        return None

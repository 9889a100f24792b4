"""The goal of a run with a reward head: made of the good answers that it trained on, and kept beside its checkpoints."""

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


def guide(name: str, cfg: ConfigDict, renderer: Renderer, *, dtype: jnp.dtype, quiet: bool) -> Guide:
    """The reward model of a run and its goal, from WORKDIR/goals/STEP.json or from its training answers. Needs a mesh in scope.

    Args:
      name: RUN, RUN@best or RUN@STEP.
      cfg: its configuration, from `training_of`.
      renderer: of the model whose answers it judges: both must write text alike.

    Raises:
      ValueError, FileNotFoundError: it writes text otherwise, or its training rows are not there any more.
    """
    source = Source(name)
    ours, theirs = renderer.identity(), source.renderer().identity()
    if other := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
        raise ValueError(
            f"{name} was trained on text that is written otherwise than that of the model ({', '.join(other)}); set --template to that of "
            "its training, or train it from this model."
        )
    judge = scorer.of_reward_model(name, dtype=dtype, attention="xla")
    workdir, step = source.place
    file = workdir / FOLDER / f"{step}.json"
    if file.is_file() and (kept := goal.Goal.load(file)).weights == judge.weights:
        return Guide(judge, kept)
    aim = goal.joined([goal.of_answers(judge, one, rows=cfg.batch.rows, quiet=quiet) for one in prepared_sets(cfg).train])
    if jax.process_index() == 0:
        file.parent.mkdir(exist_ok=True)
        aim.save(file)
    return Guide(judge, aim)

"""What a train state holds and no checkpoint of its run does, as it is read from elsewhere: a teacher, and the base under adapters."""

from pathlib import Path

from ml_collections import ConfigDict

from jaxalign.config import adapters, teacher
from jaxalign.models import model as models
from jaxalign.training import bases, runs, sources
from jaxalign.types import TrainState


def left_out(cfg: ConfigDict, model: models.Model, state: TrainState) -> TrainState:
    """The state as a checkpoint of the run holds it, also as shapes."""
    state = state if model.lora is None else state.replace(frozen=None)
    return teacher.left_out(cfg, state)


def seated(cfg: ConfigDict, model: models.Model, state: TrainState, *, run: tuple[Path, int] | None = None) -> TrainState:
    """The state with all its weights, read into their shards on the mesh in scope where it lacks them.

    Args:
      run: the folder and the step of the run whose state it is, which says what its adapters stand on; None: the configuration does.

    Raises:
      ValueError: what the adapters of the run stand on has other weights now.
    """
    if model.lora is not None and state.frozen is None:
        if run is None:
            base = adapters.base(cfg)
        else:
            record = runs.record(*run)
            base = bases.of_record(record)
            bases.check(record, sources.identity(base), run[0])
        state = state.replace(frozen=sources.load_base(base, model))
    return teacher.seated(cfg, state)

"""What `jaxalign.plan` plans: model and train step of a configuration on shapes alone, without its weights, its data or its devices."""

from collections.abc import Mapping
import dataclasses
import difflib
import re
from typing import Any

from ml_collections import ConfigDict

from jaxalign import sharding
from jaxalign.config import build, columns, functions, stages
from jaxalign.config.durations import Durations
from jaxalign.config.planned_rows import Rows
from jaxalign.models import model as models
from jaxalign.models import presets
from jaxalign.training.sources import Source
from jaxalign.types import Batch, TrainState

NAMELESS = {"meta", "instruct", "chat", "hf", "base", "it", "v0", "v1", "sft", "dpo", "full", "beta"}  # parts of a name that tell no shape
LENGTHS = Durations(100, 100, 10, 10, 100, 100, every=10)  # the program is the same for all


@dataclasses.dataclass(frozen=True)
class Step:
    """A train step on shapes, in the mesh that was in scope when it was made."""

    function: Any  # jitted (state, batch) -> (state, metrics)
    state: TrainState
    batch: Batch


def stage(configured: Mapping[str, ConfigDict], name: str | None) -> tuple[str, ConfigDict]:
    """(name, a copy of the configuration) of the stage to plan: the one named, else the last that trains.

    A model that an earlier stage leaves has the shape of the one that this started from.

    Raises:
      ValueError: there is no such stage, or none that trains.
    """
    training = stages.training_stages(configured)
    if not training:
        raise ValueError("the configuration is an experiment, which trains no model of its own; plan is for training runs.")
    name = list(training)[-1] if name is None else name
    if name not in training:
        raise ValueError(f"--stage {name!r} is no stage that trains; there are {', '.join(training)}.")
    cfg = training[name].copy_and_resolve_references()
    for section, key in ((cfg.model, "checkpoint"), (cfg.reference, "checkpoint")):
        while (section.get(key) or "").startswith(stages.STAGE):
            origin = training[section[key].removeprefix(stages.STAGE)]
            if section is cfg.model:
                cfg.model.preset, cfg.model.config = origin.model.preset, origin.model.config
                cfg.model.tokenizer = cfg.model.tokenizer or origin.model.tokenizer
            section[key] = origin.model.checkpoint
    return name, cfg


def shape_of_model(cfg: ConfigDict, *, preset: str | None) -> str:
    """Where the shape of the model is from, in words; sets model.preset in the place of a checkpoint that is not here.

    Raises:
      ValueError: the checkpoint is not here, and no preset has its name.
    """
    if preset is None and cfg.model.checkpoint is not None:
        try:
            config = Source(cfg.model.checkpoint).decoder()
            return f"{config.family} of {cfg.model.checkpoint}"
        except (ValueError, OSError) as error:
            preset = _guess(cfg.model.checkpoint)
            if preset is None:
                raise ValueError(
                    f"model.checkpoint={cfg.model.checkpoint!r} is not here ({str(error).splitlines()[0]}). Name the preset of its shape: "
                    f"--preset with one of {', '.join(presets.PRESETS)}."
                ) from error
    elif preset is None:
        return f"preset {cfg.model.preset}" if cfg.model.preset else "model.config"
    presets.preset(preset)
    without = "" if cfg.model.checkpoint is None else f", as the weights of {cfg.model.checkpoint} are not read"
    cfg.model.tokenizer = cfg.model.tokenizer or cfg.model.checkpoint
    cfg.model.checkpoint, cfg.model.config, cfg.model.preset, cfg.data.add_tokens = None, None, preset, None
    return f"preset {preset}{without}"


def _guess(checkpoint: str) -> str | None:
    """The preset whose name a checkpoint's contains, such as llama3-8b of meta-llama/Meta-Llama-3-8B-Instruct."""
    words = [word for word in re.split(r"[^a-z0-9.]+", checkpoint.rpartition("/")[2].lower()) if word and word not in NAMELESS]
    name = re.sub(r"(llama)-?(\d)(\.\d)?", r"\1\2", "-".join(words))
    close = difflib.get_close_matches(name, presets.PRESETS, n=1, cutoff=0.75)
    return close[0] if close and _size(close[0]) == _size(name) else None


def _size(name):
    return re.findall(r"[\d.]+b", name)[-1:]


def settle(cfg: ConfigDict, platform: str) -> None:
    """Replaces what a run chooses by its devices: the dtype of the matmuls."""
    if cfg.model.dtype == "auto":
        cfg.model.dtype = "float32" if platform == "cpu" else "bfloat16"


def step(cfg: ConfigDict, model: models.Model, rows: Rows) -> Step:
    """The run's own train step, on shapes in the mesh in scope, of devices or of `sharding.shapes_only`. Nothing is allocated.

    Raises:
      ValueError: the batch or the model does not split over the mesh.
    """
    mesh = sharding.mesh_shape()
    sharding.check_rows(cfg.batch.rows, parts=cfg.batch.gradient_accumulation_steps, data=mesh["data"], fsdp=mesh["fsdp"])
    sharding.check_tokens(rows.tokens, context=mesh["context"])
    objective = functions.objective(cfg)
    made = build.functions(cfg, objective, model, LENGTHS)
    state = build.abstract_state(cfg, model, made.init_state)
    return Step(made.train_step, state, _batch(cfg, objective, rows))


def _batch(cfg, objective, rows) -> Batch:
    import jax
    import jax.numpy as jnp

    def shaped(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.named(sharding.rows_spec(len(shape))))

    count, groups = cfg.batch.rows, cfg.batch.rows * rows.places
    token, by_response = shaped(jnp.int32, count, rows.tokens), shaped(jnp.float32, groups, rows.responses)
    of_responses, of_tokens = columns.known(cfg.to_dict(), objective.reads)
    named = {name: by_response for name in of_responses} | {name: shaped(jnp.float32, count, rows.tokens) for name in of_tokens}
    return Batch(*(token,) * 5, by_response, shaped(jnp.bool_, groups), shaped(jnp.bool_, groups, rows.responses), named)

"""The optimizer of a configuration: its learning rate by step, and what it decays."""

from typing import Any

from ml_collections import ConfigDict

from jaxalign.config.durations import Durations
from jaxalign.config.functions import options
from jaxalign.models import model as models
from jaxalign.training import optim


def optimizer(cfg: ConfigDict, built: models.Model, schedule, trained: tuple[str, ...] | None):
    """The optimizer of what is trained: these top-level keys of the parameters; None: all of them."""
    axes = decaying_axes(cfg, built)
    return optim.make_optimizer(
        optim.RULES[cfg.optimizer.name],
        schedule,
        max_grad_norm=cfg.optimizer.max_grad_norm,
        weight_decay=cfg.optimizer.weight_decay,
        axes=axes if trained is None else {key: axes[key] for key in trained},
        by_layer="optimizer" in cfg.mesh.offload,
        scales=_scales(cfg),
        **options(cfg, "optimizer"),
    )


def _scales(cfg: ConfigDict) -> dict[str, float]:
    """What the learning rates of the heads are times that of the decoder; empty where they are the same."""
    own = cfg.optimizer.heads_learning_rate
    return {} if own is None else dict.fromkeys(models.HEADS, own / cfg.optimizer.learning_rate)


def learning_rate(cfg: ConfigDict, lengths: Durations):
    """The learning rate by step; constant after the planned end, where the run is extended.

    Raises:
      ValueError: an extension without a learning rate.
    """
    planned = optim.make_schedule(
        cfg.optimizer.schedule,
        learning_rate=cfg.optimizer.learning_rate,
        warmup_steps=lengths.warmup,
        total_steps=lengths.planned,
        min_lr_ratio=cfg.optimizer.min_lr_ratio,
    )
    if lengths.total == lengths.planned:
        return planned
    end = cfg.optimizer.learning_rate * (1.0 if cfg.optimizer.schedule == "constant" else cfg.optimizer.min_lr_ratio)
    rate = end if cfg.train.extend_learning_rate is None else cfg.train.extend_learning_rate
    if not rate:
        raise ValueError(
            f"train.extend: optimizer.schedule={cfg.optimizer.schedule!r} ends at a learning rate of 0, which would train nothing; set "
            "train.extend_learning_rate."
        )
    return optim.extended(planned, after=lengths.planned, learning_rate=rate)


def decaying_axes(cfg: ConfigDict, built: models.Model) -> dict[str, Any]:
    """Logical axes of the parameters, () for a table that no gradient reaches: weight decay alone would wear it down.

    That is IFT's table of input tokens, unless it is tied to the head or train_embeddings is set.
    """
    rests = cfg.forward.name == "two_pass" and not cfg.forward.train_embeddings and "head" in built.axes
    return {**built.axes, "embed": {**built.axes["embed"], "tokens": ()}} if rests else built.axes

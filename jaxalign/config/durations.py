"""Every duration of a run in steps."""

import dataclasses
import math

from ml_collections import ConfigDict

from jaxalign.config.schema import DURATIONS, units
from jaxalign.data.rows import loader, store
from jaxalign.data.rows.sampling import Sampling


@dataclasses.dataclass(frozen=True)
class Durations:
    """All durations of a run in steps."""

    total: int  # with the extension
    planned: int  # without it; what percents and the learning-rate schedule refer to
    warmup: int
    log_every: int
    eval_every: int
    save_every: int
    every: int = 0  # the reference moves; 0: never
    notes: tuple[str, ...] = ()  # what a reader of the run should know of them


def durations(cfg: ConfigDict, sets: list[store.Prepared]) -> Durations:
    """Every duration in steps. An epoch goes once through as many rows as the training sets hold, or as are drawn of them; percent is
    of the total.

    train.extend_* come after train.total_*, to go on from a finished run; percent is of the total without them.

    Raises:
      ValueError: the run has no step.
    """
    drawn = {"sampling": Sampling(cfg.data.sampling, cfg.data.sampling_column), "seed": cfg.seed}
    per_epoch = loader.steps_per_epoch(sets, rows=cfg.batch.rows, **drawn)
    per_step = cfg.batch.rows * loader.groups_per_row(sets, **drawn)

    def steps(section: str, name: str, total: int | None) -> int:
        values = {unit: cfg[section].get(f"{name}_{unit}") for unit in units(name)}
        unit, value = next(((unit, value) for unit, value in values.items() if value is not None), ("steps", 0))
        scale = {"steps": 1, "epochs": per_epoch, "examples": 1 / (per_step or 1), "percent": (total or 0) / 100}[unit]
        return math.ceil(value * scale - 1e-9)

    notes = []
    total = steps("train", "total", None)
    if total < 1:
        raise ValueError("train.total comes to 0 steps; give train.total_steps, train.total_epochs or train.total_examples above 0.")
    others = {name: steps(section, name, total) for section in DURATIONS for name in DURATIONS[section] if name != "total"}
    if others["every"] > total:
        raise ValueError(
            f"reference.every comes to {others['every']} steps and the run has {total}: the reference would never move; "
            "choose a smaller one, for example reference.every_percent=12.5, or rule 'frozen'."
        )
    if others["warmup"] > total:
        reached, warmup = total / others["warmup"], others["warmup"]
        notes.append(f"optimizer.warmup comes to {warmup} steps, the run has {total}: the learning rate ends at {reached:.0%} of its peak.")
    others["log_every"] = max(others["log_every"], 1)  # what is not logged is not checked either
    return Durations(total + others.pop("extend"), total, **others, notes=tuple(notes))

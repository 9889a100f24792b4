"""What must be the same where a run is continued, and what may change."""

import json

from jaxalign.config.schema import units

# Settings that may differ from those of the run that is continued: they change where and how often, not what.
FREE_TO_CHANGE = (
    "mesh", "batch.gradient_accumulation_steps", "model.attention", "model.remat", "model.checkpoint",
    "data.computed", "data.processes", "data.prepared_dir",
    *(f"train.{key}" for key in ("keep_last", "keep_best", "best_metric", "export", "wandb")),
    *(f"train.{name}_{unit}" for name in ("log_every", "eval_every", "save_every") for unit in units(name)),
)  # fmt: skip


def check_same_data(before: list[str], now: list[str], workdir) -> None:
    """Raises ValueError where a run is continued on other prepared rows; their names are hashes of their content."""
    if before != now:
        raise ValueError(
            f"{workdir} holds a run on other rows ({', '.join(before)}, now {', '.join(now)}): the data, the tokenizer or the way rows are "
            "made has changed; choose a new --workdir, or go back to the old data."
        )


def check_same_run(before: dict, now: dict, workdir) -> None:
    """Raises ValueError where a run is continued with settings that would have made it another run."""

    def flat(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    old, new = dict(flat(before)), dict(flat(json.loads(json.dumps(now))))
    changed = [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
    ]
    if changed:
        raise ValueError(
            f"{workdir} holds a run with other settings ({'; '.join(changed)}); choose a new --workdir, or go back to the old settings."
        )

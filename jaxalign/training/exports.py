"""Exports of a run: Hugging Face folders that carry from which checkpoint they were made, so that a stale one is never taken."""

import json
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from jaxalign.hf import save as hf_save
from jaxalign.models import model as models
from jaxalign.training import runs

ORIGIN = "jaxalign.json"  # file of an export: the run, the step and a hash of the checkpoint that it was made from


def write(folder: str | Path, model: models.Model, params, *, workdir: str | Path, step: int, dtype: str) -> None:
    """Writes the parameters of a run's checkpoint, its tokenizer, template and stop tokens as a Hugging Face folder.

    Raises:
      ValueError: as `hf.save.save`.
      OSError: the disk is full; nothing is left behind.
    """
    tokenizer = runs.tokenizer(workdir, step)
    origin = json.dumps({"run": str(workdir), **_origin(workdir, step, dtype)}, indent=2) + "\n"
    hf_save.save(folder, model, params, tokenizer_from=tokenizer, dtype=dtype, more={ORIGIN: origin})


def refresh(folder: Path, model: models.Model, params, *, workdir: str | Path, step: int, dtype: str) -> None:
    """Writes the export of a run's last checkpoint unless it is there. One that was made from another checkpoint is moved aside."""
    if _is_of(folder, _origin(workdir, step, dtype)):
        return
    if jax.process_index() == 0 and folder.exists():
        aside = runs.unused(folder)
        folder.rename(aside)
        runs.to_stderr(f"the export {folder} is not of the checkpoint of step {step}: it was moved to {aside}, and a new one is written.")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("jaxalign.exports.refresh")
    write(folder, model, params, workdir=workdir, step=step, dtype=dtype)


def _origin(workdir, step, dtype):
    return {"step": step, "checkpoint": runs.SEAL.digest(runs.checkpoints(workdir) / str(step)), "dtype": dtype}


def _is_of(folder: Path, origin: dict) -> bool:
    try:
        values = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and origin.items() <= values.items()

"""Exports of a run: Hugging Face folders with a manifest of their files and of the checkpoint that they were made from."""

import json
from pathlib import Path

import jax

from jaxalign import paths
from jaxalign.hf import adapters, tensors, trained
from jaxalign.hf import save as hf_save
from jaxalign.hosts import watch
from jaxalign.manifest import Manifest
from jaxalign.models import merge
from jaxalign.models import model as models
from jaxalign.training import bases, runs

SEAL = Manifest("jaxalign.json", closed=False)  # its facts: the run, the step, a hash of the checkpoint that the export was made from
WEIGHTS = ".safetensors"
BASE = "base"  # fact of an adapter: a hash of what it stands on


def write(folder: str | Path, model: models.Model, params, *, workdir: str | Path, step: int, dtype: str) -> None:
    """Writes the parameters of a run's checkpoint, its tokenizer, template and stop tokens as a Hugging Face folder.

    A run with a reward head becomes a sequence classifier; adapters are merged.

    Raises:
      ValueError: as `hf.save.save`.
      OSError: the disk is full; nothing is left behind.
    """
    model, params = merge.merged(model, params)
    tokenizer = runs.tokenizer(workdir, step)
    facts = {"run": str(workdir), **_origin(workdir, step, dtype)}

    def seal(partial: Path) -> None:
        if model.reward_head is not None:
            trained.for_classifier(partial)
        SEAL.write(partial, facts=facts)

    hf_save.save(folder, model, params, tokenizer_from=tokenizer, dtype=dtype, seal=seal)


def write_adapter(folder: str | Path, model: models.Model, params, *, workdir: str | Path, step: int, dtype: str) -> None:
    """Writes the adapters of a run's checkpoint, and its tokenizer, as a folder of `peft`, whole or not at all.

    Raises:
      ValueError: the run has no adapters, they change nothing, or the folder exists.
      OSError: the disk is full; nothing is left behind.
    """
    if model.lora is None:
        raise ValueError(f"{workdir} is a run without adapters: leave --adapter out to write the whole model.")
    hf_save.check_new(folder)
    record = runs.record(workdir, step)
    origin, arrays = bases.of_record(record).checkpoint, adapters.tensors(model, params)
    if origin is None:
        raise ValueError(f"{workdir} has adapters for random weights, which nobody else has: leave --adapter out to write the whole model.")
    where, *at = origin.partition("@")
    there = Path(paths.resolve(where))
    if runs.checkpoints(there).is_dir():
        runs.to_stderr(
            f"these adapters stand on the run {origin}, which jaxalign reads and peft does not; for peft, export that run and write its "
            f"folder as base_model_name_or_path into {Path(folder) / adapters.CONFIG}."
        )
    name = "".join((str(there.resolve()), *at)) if there.exists() else origin  # whichever folder it is read from
    values = adapters.written_config(model, base_name=name)
    if jax.process_index() == 0:
        with hf_save.whole_folder(folder) as partial:
            tensors.write(partial / adapters.WEIGHTS, {name: array.shape for name, array in arrays.items()}, dtype, arrays.get)
            (partial / adapters.CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            hf_save.carry(partial, runs.tokenizer(workdir, step))
            SEAL.write(partial, facts={"run": str(workdir), BASE: bases.weights_of(record), **_origin(workdir, step, dtype)})
    if jax.process_count() > 1:
        watch.barrier("an adapter", limited=False)


def refresh(folder: Path, model: models.Model, params, *, workdir: str | Path, step: int, dtype: str) -> None:
    """Writes the export of a run's last checkpoint unless it is there, whole. One that is not is moved aside."""
    reason = _stale(folder, _origin(workdir, step, dtype))
    if not reason:
        return
    if jax.process_index() == 0 and folder.exists():
        aside = runs.unused(folder)
        folder.rename(aside)
        runs.to_stderr(f"the export {folder} {reason}: it was moved to {aside}, and a new one of step {step} is written.")
    watch.barrier("an older export", limited=False)
    write(folder, model, params, workdir=workdir, step=step, dtype=dtype)


def _origin(workdir, step, dtype):
    return {"step": step, "checkpoint": runs.SEAL.digest(runs.checkpoints(workdir) / str(step)), "dtype": dtype}


def _stale(folder: Path, origin: dict) -> str:
    """Why the folder is not the whole export of this origin, as the end of a sentence; "" where it is."""
    if not _has_manifest(folder):
        return f"has no manifest in {SEAL.name}"
    if damage := SEAL.damage(folder):
        return f"is damaged ({damage})"
    return "" if origin.items() <= SEAL.read(folder).items() else "is of another checkpoint or type"


def check(folder: Path) -> None:
    """Raises ValueError where the weights in a folder are an export whose manifest contradicts them. A person may edit its other files."""
    if _has_manifest(folder) and (damage := SEAL.damage(folder, lambda name: name.endswith(WEIGHTS))):
        raise ValueError(
            f"the export {folder} is damaged: {damage}; remove it and write it anew with python -m jaxalign.export, or bring an "
            "intact copy there."
        )


def check_base(folder: Path, name: str, weights: str | None) -> None:
    """Raises ValueError where an adapter that was exported stands on other weights than those of this hash, which are called `name`."""
    trained_on = SEAL.read(folder).get(BASE) if _has_manifest(folder) else None
    if trained_on not in (None, weights):
        raise ValueError(
            f"the adapter in {folder} was trained on weights with content {trained_on}, and those of {name} have {weights or 'none'}: an "
            "adapter fits its own base alone. Bring that back there."
        )


def _has_manifest(folder):
    # earlier versions wrote the origin alone
    return SEAL.is_in(folder) and '"files"' in (folder / SEAL.name).read_text(encoding="utf-8", errors="replace")

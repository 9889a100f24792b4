"""model.remat "auto": of the policies of remat the first with which a step fits into the memory of a device."""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from jaxalign import chips, sharding
from jaxalign.config import judges, planned_rows, planning, teacher
from jaxalign.lm_head.chunks import CHUNK_TOKENS
from jaxalign.models.config import ModelConfig
from jaxalign.models.model import Model
from jaxalign.planning import topology
from jaxalign.planning.topology import Topology
from jaxalign.scoring import rewards
from jaxalign.training import runs
from jaxalign.training.sources import Source

AMPLE = 0.5  # share of the memory that a generous sum may reach before the step is traced to know better
NOTHING: Mapping[str, Any] = {}
UNKNOWN = {"tpu": "v4", "gpu": "a100"}  # by platform, the chip whose form a chip has that the table lacks


def settle(cfg: ConfigDict, model: Model, before: Mapping[str, Any] = NOTHING) -> None:
    """Replaces a model.remat of "auto" for the devices here, on the mesh in scope, and says what is chosen and why.

    All processes choose the same. data.row_tokens must be a number.

    Args:
      before: what the checkpoint that a run goes on from records; the run keeps its policy, as each rounds in its own way.
    """
    if cfg.model.remat != "auto":
        return
    kept = before.get("config", {}).get("model", {}).get("remat")
    if kept in planning.REMATS:
        cfg.model.remat = kept
        return
    here = devices_here()
    memory = here.memory_bytes - beside_bytes(cfg)
    if generous_bytes(cfg, model) <= AMPLE * memory:
        cfg.model.remat, why = planning.REMATS[0], "all that it keeps fits"
    else:
        cfg.model.remat, why = _by_plan(cfg, model, dataclasses.replace(here, chip=_with_memory(here.chip, memory)))
    runs.to_stderr(f"model.remat={cfg.model.remat} is chosen: {why}")


def _by_plan(cfg, model, here):
    rows = planned_rows.assumed(cfg, "the memory of a step does not depend on it")
    try:
        plan = planning.quick(planning.Job(cfg, model, rows, here, "its own", cfg.objective.name))
    except Exception as error:  # noqa: BLE001 (an estimate that fails must not end a run)
        return planning.REMATS[-1], f"the memory of a step cannot be estimated ({type(error).__name__}: {error})"
    needed = f"a step takes some {plan['total_gib']:.3g} of {plan['capacity_gib']:.3g} GiB per device"
    way_out = "" if plan["fits"] else "; it may not fit: choose fewer or shorter rows, batch.gradient_accumulation_steps, or more devices"
    return plan["remat"], needed + way_out


def devices_here() -> Topology:
    """The devices of this run, with the memory that the poorest of them gives to a program; CPU devices share that of their machine."""
    devices = jax.devices()
    first = devices[0]
    chip = chips.of_device(first.device_kind) or chips.CHIPS.get(UNKNOWN.get(first.platform, ""), topology.LOCAL)
    memory = np.float64(_memory_bytes(chip))
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        memory = np.min(multihost_utils.process_allgather(memory))
    shape, slices = sharding.torus_of(devices), len({getattr(device, "slice_index", 0) for device in devices})
    whole = chip.torus and math.prod(shape) * slices * chip.devices == len(devices)
    shape, slices = (shape, slices) if whole else ((len(devices) // chip.devices,), 1)
    return Topology("the devices here", _with_memory(chip, float(memory)), shape, slices)


def _with_memory(chip, memory):
    return dataclasses.replace(chip, memory_bytes=memory * chip.devices)


def _memory_bytes(chip) -> float:
    """Of one device of this process."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats["bytes_limit"]
    if chip is not topology.LOCAL:  # an allocator that tells nothing
        return chip.memory_bytes / chip.devices
    whole, limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():  # of a container
        whole = min(whole, int(text))
    return whole / jax.local_device_count()


def generous_bytes(cfg: ConfigDict, model: Model) -> float:
    """More than a step needs of a device under remat "none": eight float32 numbers per parameter, and all that layers and head compute."""
    mesh, theirs, own = sharding.mesh_shape(), teacher.model(cfg), model.critic_decoder
    parameters = 4.0 * sum(leaf.size for leaf in jax.tree.leaves((model.shapes, theirs and theirs.shapes, own and own.shapes)))
    tokens = cfg.batch.rows * cfg.data.row_tokens / cfg.batch.gradient_accumulation_steps / (mesh["data"] * mesh["fsdp"] * mesh["context"])
    layers = sum(_numbers(one.config) for one in (model, own) if one is not None)
    head = 4.0 * model.config.padded_vocab * 3 * (CHUNK_TOKENS + model.config.width)
    return 8 * parameters / _shards() + 4.0 * tokens * layers + head


def _numbers(config: ModelConfig) -> int:
    """Of one token, in all layers."""
    heads = 4 * (config.heads + config.kv_heads) * config.head_dim
    return (12 * config.width + heads + 5 * config.mlp_width) * (config.layers + 2)


def beside_bytes(cfg: ConfigDict) -> float:
    """Of one device, for the reward models that score what is said, which stay in memory beside the step."""
    rollout, asked = cfg.to_dict()["data"]["rollout"], cfg.to_dict()["eval"]["generate"]
    specs = [rollout["reward"]] if rollout and rollout["reward"] else []
    specs += judges.named(asked)[0].values() if asked else []
    names = {name for spec in specs for name in _reward_models(spec)}
    return 4.0 * sum(leaf.size for name in names for leaf in jax.tree.leaves(Source(name).reward_model().shapes)) / _shards()


def _reward_models(spec) -> Iterator[str]:
    options = rewards.parse(spec)
    if options["kind"] == "model":
        yield options["model"]
    elif options["kind"] == "sum":
        for part, _ in options["of"].values():
            yield from _reward_models(part)


def _shards() -> int:
    mesh = sharding.mesh_shape()
    return mesh["fsdp"] * mesh["context"] * mesh["tensor"]

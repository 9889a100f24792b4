"""model.remat "auto": of the policies of remat the first with which a step fits into the memory of a device."""

from collections.abc import Mapping
import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from jaxalign import chips, sharding
from jaxalign.config import planned_rows, planning, teacher
from jaxalign.lm_head.chunks import CHUNK_TOKENS
from jaxalign.models.config import ModelConfig
from jaxalign.models.decoder import REMAT
from jaxalign.models.model import Model
from jaxalign.planning import topology
from jaxalign.planning.topology import Topology
from jaxalign.training import runs

GIB = 2**30
AMPLE = 0.5  # share of the memory that a generous sum may reach before the step is traced to know better
NOTHING: Mapping[str, Any] = {}


def settle(cfg: ConfigDict, model: Model, before: Mapping[str, Any] = NOTHING) -> None:
    """Replaces a model.remat of "auto" for the devices here, on the mesh in scope, and says what is chosen and why.

    All processes choose the same. What cannot be estimated ends no run: it takes the most frugal policy.

    Args:
      before: what the checkpoint that a run goes on from records; the run keeps its policy, as each rounds in its own way.
    """
    if cfg.model.remat != "auto":
        return
    if kept := _recorded(before):
        cfg.model.remat = kept
        runs.to_stderr(f"model.remat={kept} is kept from the checkpoint; name another one to change it")
        return
    place, why = _chosen(cfg, model)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        most = int(np.max(multihost_utils.process_allgather(np.int32(place))))
        place, why = most, why if most == place else "another process has less memory"
    cfg.model.remat = planning.REMATS[place]
    runs.to_stderr(f"model.remat={cfg.model.remat} is chosen: {why}")


def _recorded(before):
    section = (before.get("config") or {}).get("model") or {}
    return section.get("remat") if section.get("remat") in REMAT else None


def _chosen(cfg, model) -> tuple[int, str]:
    """(place in planning.REMATS, why) for the devices of this process."""
    try:
        here = devices_here()
        beside = beside_bytes(cfg, model)
        if generous_bytes(cfg, model) + beside <= AMPLE * here.memory_bytes:
            return 0, "all that it keeps fits"
        rows = planned_rows.assumed(cfg, "the memory of a step does not depend on it")
        left = dataclasses.replace(here, chip=_with_memory(here.chip, here.memory_bytes - beside))
        plan = planning.quick(planning.Job(cfg, model, rows, left, "its own", cfg.objective.name))
    except Exception as error:  # noqa: BLE001 (an estimate that fails must not end a run)
        return len(planning.REMATS) - 1, f"the memory of a step cannot be estimated ({type(error).__name__}: {error})"
    why = f"a step takes some {plan['total_gib']:.3g} of {here.memory_bytes / GIB:.3g} GiB per device"
    if beside:
        why += f", beside reward models of {beside / GIB:.3g}, if they are as large as the policy"
    if not plan["fits"]:
        why += "; it may not fit: choose fewer or shorter rows, batch.gradient_accumulation_steps, or more devices"
    return planning.REMATS.index(plan["remat"]), why


def devices_here() -> Topology:
    """The devices of this run, with the memory that one of them gives to a program; CPU devices share that of their machine.

    Raises:
      ValueError: they tell no memory and are in no table.
    """
    devices = jax.devices()
    kind = devices[0].device_kind
    chip = topology.LOCAL if devices[0].platform == "cpu" else chips.of_device(kind)
    if chip is None:
        raise ValueError(f"{kind!r} is not in the table of chips")
    shape, slices = sharding.torus_of(devices), len({getattr(device, "slice_index", 0) for device in devices})
    whole = chip.torus and math.prod(shape) * slices * chip.devices == len(devices)
    shape, slices = (shape, slices) if whole else ((len(devices) // chip.devices,), 1)
    return Topology("the devices here", _with_memory(chip, _memory_bytes(chip)), shape, slices)


def _with_memory(chip, memory):
    return dataclasses.replace(chip, memory_bytes=memory * chip.devices)


def _memory_bytes(chip) -> float:
    """Of one device of this process."""
    if limit := (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit"):
        return limit
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


def beside_bytes(cfg: ConfigDict, model: Model) -> float:
    """Of one device, for the reward models that score what is said and stay in memory: each as large as the policy, in float32."""
    sections = cfg.to_dict()
    count = sum(_reward_models(section) for section in (sections["data"]["rollout"], sections["eval"]["generate"]))
    return count * 4.0 * sum(leaf.size for leaf in jax.tree.leaves(model.shapes)) / _shards()


def _reward_models(spec) -> int:
    """How many reward models a section names, wherever they stand in it."""
    if isinstance(spec, str):
        return spec.startswith("model:")
    if isinstance(spec, Mapping):
        return (spec.get("kind") == "model") + sum(map(_reward_models, spec.values()))
    return sum(map(_reward_models, spec)) if isinstance(spec, list | tuple) else 0


def _shards() -> int:
    mesh = sharding.mesh_shape()
    return mesh["fsdp"] * mesh["context"] * mesh["tensor"]

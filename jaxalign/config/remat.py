"""model.remat "auto": the fastest policy of remat with which a step fits into the memory of a device."""

import dataclasses
import math
import os

import jax
from ml_collections import ConfigDict
import numpy as np

from jaxalign import chips, sharding
from jaxalign.config import planned_rows, planning, teacher
from jaxalign.lm_head.chunks import CHUNK_TOKENS
from jaxalign.models.model import Model
from jaxalign.planning import topology
from jaxalign.planning.topology import Topology

AMPLE = 0.5  # share of the memory that a generous sum may reach before the step is traced to know better


def settle(cfg: ConfigDict, model: Model) -> str | None:
    """Replaces a model.remat of "auto" for the devices here, on the mesh in scope; returns what is chosen and why, None where it was named.

    All processes choose the same. data.row_tokens must be a number.
    """
    if cfg.model.remat != "auto":
        return None
    here = devices_here()
    if generous_bytes(cfg, model) <= AMPLE * here.memory_bytes:
        place, why = 0, "all that it keeps fits"
    else:
        rows = planned_rows.assumed(cfg, "the memory of a step does not depend on it")
        plan = planning.quick(planning.Job(cfg, model, rows, here, "its own", cfg.objective.name))
        place = planning.REMATS.index(plan["remat"])
        why = f"some {plan['total_gib']:.3g} of {plan['capacity_gib']:.3g} GiB per device"
    if jax.process_count() > 1:  # whose devices may have less memory
        from jax.experimental import multihost_utils

        place = int(np.max(multihost_utils.process_allgather(np.int32(place))))
    cfg.model.remat = planning.REMATS[place]
    return f"model.remat={cfg.model.remat} is chosen: {why}"


def devices_here() -> Topology:
    """The devices of this run with the memory that they give to a program; on a CPU all of the machine's, shared by its devices."""
    devices = jax.devices()
    first, stats = devices[0], jax.local_devices()[0].memory_stats() or {}
    memory = stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()
    chip = topology.LOCAL if first.platform == "cpu" else chips.of_device(first.device_kind) or chips.CHIPS["a100"]
    shape, slices = sharding.torus_of(devices), len({getattr(device, "slice_index", 0) for device in devices})
    whole = (math.prod(shape) * slices * chip.devices) == len(devices)
    counted = (shape, slices) if chip.torus and whole else ((len(devices) // chip.devices,), 1)
    return Topology("the devices here", dataclasses.replace(chip, memory_bytes=memory * chip.devices), *counted)


def generous_bytes(cfg: ConfigDict, model: Model) -> float:
    """More than a step needs of a device under remat "none": eight float32 numbers per parameter, and all that layers and head compute."""
    mesh, config = sharding.mesh_shape(), model.config
    shards = mesh["fsdp"] * mesh["context"] * mesh["tensor"]
    theirs = teacher.model(cfg)
    parameters = 4.0 * sum(leaf.size for leaf in jax.tree.leaves((model.shapes, theirs and theirs.shapes)))
    tokens = cfg.batch.rows * cfg.data.row_tokens / cfg.batch.gradient_accumulation_steps / (mesh["data"] * mesh["fsdp"] * mesh["context"])
    numbers = 12 * config.width + 4 * (config.heads + config.kv_heads) * config.head_dim + 5 * config.mlp_width
    layers = 4.0 * tokens * numbers * (config.layers + 2)
    head = 4.0 * config.padded_vocab * (3 * CHUNK_TOKENS + 3 * config.width)
    return 8 * parameters / shards + layers + head


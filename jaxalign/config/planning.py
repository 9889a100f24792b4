"""The plan of a configuration on a topology, from a trace of its step or from the compiled step."""

import dataclasses
import itertools
from typing import Any

from jax.interpreters.partial_eval import dce_jaxpr
from ml_collections import ConfigDict
import numpy as np

from jaxalign import sharding
from jaxalign.config import build, planned, planned_rows, teacher
from jaxalign.lm_head import chunks
from jaxalign.models import model as models
from jaxalign.planning import compiled, hlo, memory, program, roofline, text
from jaxalign.planning.topology import Topology, devices_of
from jaxalign.reports.flops import step_flops
from jaxalign.training import compiler_options

GIB = 2**30
KERNELS = 0.5  # share of the peak that a kernel is taken to reach
REMATS = "dots", "attention", "full"  # that "auto" chooses from, in this order; for "none" see tests/benchmarks/RESULTS.md
ROOM = 0.9  # share of a device's memory that a policy may fill by `quick`, which errs by a tenth, to be chosen
LIMITS = {"memory": "HBM", "network": "the network between slices or nodes"}


@dataclasses.dataclass(frozen=True)
class Job:
    """What is planned, and for what."""

    cfg: ConfigDict  # with everything settled but mesh, microbatches and remat, which a search changes
    model: models.Model
    rows: planned_rows.Rows
    topology: Topology
    shape: str  # where the shape of the model is from
    name: str  # of the configuration
    price: float | None = None

    def changed(self, **changes) -> "Job":
        """The same with other mesh axes, `microbatches` or `remat`."""
        cfg = self.cfg.copy_and_resolve_references()
        for name, value in changes.items():
            if name == "microbatches":
                cfg.batch.gradient_accumulation_steps = value
            elif name == "remat":
                cfg.model.remat = value
            else:
                cfg.mesh[name] = value
        return dataclasses.replace(self, cfg=cfg)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of sharding.MESH_AXES."""
        mesh, torus = self.cfg.mesh, self.topology.shape if self.topology.is_tpu else ()
        asked = mesh.data, mesh.fsdp, mesh.context, mesh.tensor
        data, fsdp, context, tensor = sharding.mesh_sizes(*asked, devices=self.topology.devices)
        if self.topology.is_tpu:
            sharding.check_slices(data, slices=self.topology.slices, devices=self.topology.devices)
        return data, *sharding.split_fsdp(fsdp, torus), context, tensor

    @property
    def axes(self) -> dict[str, int]:
        """Sizes of sharding.MESH_AXES by name."""
        return dict(zip(sharding.MESH_AXES, self.sizes, strict=True))


def job(cfg: ConfigDict, topology: Topology, *, name: str, preset: str | None, price: float | None) -> Job:
    """The job of a resolved configuration, which is changed: what is not here is replaced, what a run chooses is chosen."""
    shape = planned.shape_of_model(cfg, preset=preset)
    planned.settle(cfg, topology.platform)
    rows = planned_rows.rows_of(cfg)
    return Job(cfg, build.model(cfg), rows, topology, shape, name, price)


def quick(job: Job) -> dict[str, Any]:
    """The plan of a job from a trace of its step; nothing is compiled.

    Raises:
      ValueError: batch or model do not split over the mesh.
    """
    if job.cfg.model.remat == "auto":
        return _first_that_fits(job)
    traced = trace(job)
    causes, bounds = _causes(job, traced), _bounds(job, traced, traced.work.flops, traced.work.collectives)
    notes = ["from a trace of the step; nothing was compiled, and the compiler may choose other collectives", *_of_host(traced.state)]
    collectives = text.grouped(traced.work.collectives)
    plan = describe(job, causes, sum(causes.values()), traced.work.flops, collectives, bounds, bounds.serial, notes=notes)
    return plan | {"by": "estimated from shapes", "step_by": "nothing overlaps", "host_gib": traced.state.host / GIB}


def _first_that_fits(job: Job) -> dict[str, Any]:
    """The plan of the remat that a run chooses: the first that surely fits, else the most frugal one."""
    for name in REMATS:
        plan = quick(job.changed(remat=name))
        if plan["total_gib"] <= ROOM * plan["capacity_gib"]:
            break
    return plan


def settled(job: Job) -> Job:
    """The job with the remat of a run in the place of "auto"."""
    return job.changed(remat=quick(job)["remat"]) if job.cfg.model.remat == "auto" else job


@dataclasses.dataclass(frozen=True)
class Traced:
    """A step on shapes and what its trace contains."""

    step: planned.Step
    work: program.Work
    state: memory.State


def trace(job: Job) -> Traced:
    """The step of a job, traced without devices; errors are those of `quick`."""
    with sharding.shapes_only(job.sizes, job.topology.platform):
        step = planned.step(job.cfg, job.model, job.rows)
        jaxpr = _used(step.function.trace(step.state, step.batch).jaxpr)
    return Traced(step, program.work_of(jaxpr, _setting(job)), memory.state_bytes(step.state))


def _used(jaxpr):
    """The closed jaxpr without what no output needs, which a compiler drops: the gradient of a table that is not trained."""
    inner, _ = dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars), instantiate=True)
    return jaxpr.replace(jaxpr=inner)


def exact(job: Job, *, cache: str | None = None) -> dict[str, Any]:
    """The plan of a job from its step compiled for the topology; minutes for a large model, once: it is kept in `cache`.

    The memory is the compiler's, whose total is divided among the causes: the state and what the layers keep as the program has them,
    gradients and head as in `quick`, the rest is temporary. The step takes the compiler's own cycles, the kernels' arithmetic at
    half of the peak, and the collectives that nothing overlaps.

    Raises:
      ValueError: batch or model do not split over the mesh, or the devices cannot be described here.
    """
    import jax

    job = settled(job)
    topology, traced = job.topology, trace(job)
    with jax.set_mesh(sharding.make_mesh(**mesh_of(job), devices=devices_of(topology))):
        step = planned.step(job.cfg, job.model, job.rows)
        lowered, options = step.function.lower(step.state, step.batch), compiler_options.options()
        chunk = chunks.chunk_tokens(chunks.Options(job.model.config.vocab_size, None, chunks.CHUNK_TOKENS))
    made = compiled.compile_step(lowered, target=topology.name, options=options, cache=cache)
    if made.problem:
        plan = quick(job)
        return plan | {"fits": False, "total_gib": made.total / GIB, "by": "by the compiler", "notes": [*plan["notes"], made.problem]}
    read = hlo.Program(made.text, trips=max(1.0, _setting(job).scored / chunk))
    sent = read.collectives(topology.devices)
    collectives = [
        program.Collective(one.kind, _group_axes(job, one), one.sent_bytes, one.times, one.loop, float(one.between_slices)) for one in sent
    ]
    flops = read.flops() + traced.work.kernel_flops
    bounds = _bounds(job, traced, flops, collectives)
    waited = [one for one, is_sent in zip(collectives, sent, strict=True) if not is_sent.asynchronous]
    cycles, clock = read.cycles(), topology.chip.clock
    step_s = bounds.serial
    if cycles and clock:
        busy = cycles / clock + traced.work.kernel_flops / topology.rate("flops") / KERNELS
        waiting = _bounds(job, traced, 0.0, waited)
        step_s = max(busy + waiting.links + waiting.network, bounds.links, bounds.network)
    grouped = text.grouped(collectives, asynchronous=[one.asynchronous for one in sent])
    causes = _compiled_causes(job, traced, made, read)
    by = f"the compiler's peak; compiled in {made.seconds:.0f} s"
    how = "the compiler's cycles and the collectives that nothing overlaps" if cycles and clock else "nothing overlaps"
    plan = describe(job, causes, made.total, flops, grouped, bounds, step_s, notes=_of_host(traced.state))
    return plan | {"by": by, "step_by": how, "host_gib": traced.state.host / GIB}


def _of_host(state) -> list[str]:
    """A note on what rests in the memory of the host."""
    moved = "it crosses the link between host and device in every step, whose time is not in the forecast"
    return [f"{text.amount(state.host / GIB).strip()} of each device rest in the memory of its host; {moved}"] if state.host else []


def _causes(job, traced) -> dict[str, float]:
    batch = sum(program.local_bytes(x) for x in _leaves(traced.step.batch))
    mesh, width = mesh_of(job), np.dtype(build.dtype(job.cfg)).itemsize
    table = job.model.config.padded_vocab * job.model.config.width / mesh["tensor"]
    layer = sum(x.size for x in _leaves(job.model.shapes["layers"])) / job.model.config.layers / mesh["tensor"]
    ahead = mesh["fsdp"] > 1 and job.topology.platform in compiler_options.GATHERS_AHEAD
    learned = ("embed" if job.model.config.tied else "head") in traced.step.state.trainable
    sizes = {"table_bytes": table * width, "table_gradient_bytes": table * 4 if learned else 0.0}
    sizes |= {"prefetched_bytes": layer * width if ahead else 0.0, "batch_bytes": batch}
    return memory.by_cause(traced.state, traced.work, **sizes, microbatches=job.cfg.batch.gradient_accumulation_steps)


def _compiled_causes(job, traced, made, read) -> dict[str, float]:
    """The compiler's peak by cause: what is known of each, in their order, as far as the peak goes; the rest is temporary."""
    names = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
    leaves = [x for x in _leaves(traced.step.state) if str(x.dtype) in names]
    known = {(names[str(x.dtype)], tuple(int(size) for size in program.local_shape(x))) for x in leaves}
    causes = _causes(job, traced) | {"activations": read.stacked_bytes(job.model.config.layers, known)}
    left, divided = made.total, {}
    for name in memory.CAUSES:
        divided[name] = left if name == memory.CAUSES[-1] else min(causes[name], left)
        left -= divided[name]
    return divided


def _bounds(job, traced, flops, collectives) -> roofline.Bounds:
    moved = roofline.moved_bytes(traced.work, trained=traced.state.trained, optimizer=traced.state.optimizer)
    return roofline.bounds(flops, moved, collectives, job.topology, job.axes)


def _group_axes(job, sent) -> tuple[str, ...]:
    """The mesh axes of a compiled collective: those along which the places of its first group differ, or of which it has the size."""
    mesh = job.axes
    if sent.between_slices:
        return ("data",)
    if sent.group and max(sent.group) < np.prod(job.sizes):
        places = np.stack(np.unravel_index(np.array(sent.group), job.sizes))
        return tuple(name for name, row in zip(mesh, places, strict=True) if len(set(row.tolist())) > 1)
    names = [name for name, size in mesh.items() if size > 1]
    several = (subset for count in range(1, len(names) + 1) for subset in itertools.combinations(names, count))
    return next((subset for subset in several if np.prod([mesh[name] for name in subset]) == sent.devices), tuple(names))


def describe(job: Job, causes, total_bytes, flops, collectives, bounds, step_s, *, notes) -> dict[str, Any]:
    """The plan that these figures of one device give, as `planning.text` shows it and --json writes it."""
    cfg, rows, topology = job.cfg, job.rows, job.topology
    positions = cfg.batch.rows * rows.tokens
    tokens = positions * rows.fill
    theirs = teacher.model(cfg)
    counted = {"tokens": tokens, "scored": positions * rows.scored, "seen": tokens * rows.seen}
    necessary = step_flops(job.model.config, **counted, **build.work(cfg, job.model), teacher=theirs and theirs.config)
    steps = planned_rows.total_steps(cfg, rows)
    speed = roofline.speed(step_s, flops=necessary, tokens=tokens, topology=topology, steps=steps, price=job.price)
    parts = cfg.batch.gradient_accumulation_steps
    how = f"remat {cfg.model.remat}, reference {cfg.reference.rule}"
    per_row = f"{rows.groups:.1f} groups of {rows.responses}"
    parameters = sum(x.size for x in _leaves(job.model.shapes))
    return {
        "what": f"{cfg.objective.name} of {job.name}",
        "topology": topology.name,
        "chips": topology.chips,
        "mesh": mesh_of(job),
        "batch_rows": cfg.batch.rows,
        "microbatches": parts,
        "remat": cfg.model.remat,
        "shape": f"{job.shape}, {parameters / 1e9:,.3g}B parameters, {cfg.model.dtype}",
        "rows": f"{rows.fill:.0%} full, {rows.scored:.0%} scored, {per_row}: {rows.origin}",
        "batch": f"{cfg.batch.rows:,} rows of {rows.tokens:,} tokens in {parts} part(s), {how}",
        "fits": total_bytes <= topology.memory_bytes,
        "capacity_gib": topology.memory_bytes / GIB,
        "total_gib": total_bytes / GIB,
        "memory_gib": {name: value / GIB for name, value in causes.items()},
        "flops": {"executed": flops, "necessary": necessary / topology.devices},
        "collectives": collectives,
        "bound_s": {"compute": bounds.compute, "HBM": bounds.memory, "links": bounds.links, "network": bounds.network},
        "limit": f"bound by {LIMITS.get(bounds.limit, bounds.limit)}",
        "step_s": speed.step_s,
        "tokens_per_s": speed.tokens_per_s,
        "mfu_forecast": speed.mfu,
        "steps": steps,
        "hours": speed.hours,
        "chip_hours": speed.chip_hours,
        "price": job.price,
        "cost": speed.cost,
        "notes": notes,
    }


def mesh_of(job: Job) -> dict[str, int]:
    """Sizes of data, fsdp, context and tensor."""
    with sharding.shapes_only(job.sizes, job.topology.platform):
        return sharding.mesh_shape()


def _setting(job) -> program.Setting:
    mesh, rows, cfg = mesh_of(job), job.rows, job.cfg
    shards = mesh["data"] * mesh["fsdp"] * mesh["context"]
    device_tokens = cfg.batch.rows * rows.tokens / shards / cfg.batch.gradient_accumulation_steps
    return program.Setting(
        depths=frozenset(one.config.layers for one in (job.model, job.model.critic_decoder) if one is not None),
        vocabulary=job.model.config.padded_vocab,
        mesh=job.axes,
        slice_devices=job.topology.slice_devices,
        platform=job.topology.platform,
        tokens=device_tokens,
        scored=device_tokens * rows.scored,
        seen=rows.seen,
    )


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)

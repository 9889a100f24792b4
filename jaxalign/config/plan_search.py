"""Plans of several meshes, microbatches and remat policies, by `planning.quick`: the nearest that fits, and the fastest."""

from collections.abc import Callable, Iterator

from jaxalign.config import planning
from jaxalign.planning import text

REMATS = ("none", *planning.REMATS)  # from the one that computes least to the smallest
TENSOR = (1, 2, 4, 8)  # beyond 8, most models repeat their key heads
CONTEXT = (1, 2, 4, 8, 16)


def nearest(
    job: planning.Job, tell: Callable[[str], None] = lambda line: None, *, beyond: float = 1.0
) -> tuple[str, dict] | None:
    """(the change in words, its plan) of the nearest job that fits by `quick`; None where none of those tried does.

    More microbatches come first, as they cost least; then remat, then parameters split further.

    Args:
      beyond: what the compiler needs for the job itself over what `quick` estimates; the changed job is taken to need as much more.
    """
    for changes in _changes(job):
        words = ", ".join(f"{_key(name)}={value}" for name, value in changes.items())
        tell(words)
        try:
            plan = planning.quick(job.changed(**changes))
        except ValueError:  # it does not split
            continue
        if plan["total_gib"] * max(beyond, 1.0) <= plan["capacity_gib"]:
            return words, plan
    return None


def candidates(job: planning.Job) -> Iterator[planning.Job]:
    """Jobs that a search tries: meshes with every power of two on tensor up to 8, and every remat; microbatches are found for each.

    Where there are fewer rows than devices, as few devices as will do share the tokens of a row.
    """
    devices, least = job.topology.devices, _least_data(job)
    for tensor in TENSOR:
        for data in (least * copies for copies in (1, 2, 4, 8, 16)):
            if devices % (tensor * data):
                continue
            context = next((size for size in CONTEXT if devices % (tensor * data * size) == 0 and _splits(job, tensor, size)), None)
            for remat in REMATS if context else ():
                mesh = {"data": data, "fsdp": devices // (tensor * data * context), "context": context, "tensor": tensor}
                yield job.changed(**mesh, remat=remat, microbatches=1)


def _splits(job: planning.Job, tensor: int, context: int) -> bool:
    """Whether rows and their tokens split over the devices that these sizes leave to them."""
    return job.cfg.batch.rows % (job.topology.devices // (tensor * context)) == 0 and job.rows.tokens % context == 0


def search(job: planning.Job, tell: Callable[[str], None] = lambda line: None) -> list[dict]:
    """Plans of meshes, remat and the fewest microbatches that fit, the fastest by `quick` first; without those that fit in no way.

    Raises:
      ValueError: batch or model split over none of the meshes.
    """
    plans, slowest, splits, problem = [], {}, False, ""
    for one in candidates(job):
        mesh = one.sizes
        tell(f"{text.mesh(planning.mesh_of(one))}, remat {one.cfg.model.remat}")
        if slowest.get(mesh):  # with less computed again it fits in one part already
            continue
        while True:
            try:
                plan = planning.quick(one)
            except ValueError as error:
                problem = f": {error}"
                break
            splits = True
            if plan["fits"]:
                plans.append(plan)
                slowest[mesh] = plan["microbatches"] == 1
                break
            one = one.changed(microbatches=one.cfg.batch.gradient_accumulation_steps * 2)
    if not splits:
        what = f"batch.rows={job.cfg.batch.rows} with rows of {job.rows.tokens:,} tokens"
        raise ValueError(f"{what} split over {job.topology.name} in no way that was tried{problem}; choose another number of rows.")
    return sorted(plans, key=lambda plan: plan["step_s"])


def _changes(job: planning.Job) -> Iterator[dict]:
    parts, mesh = job.cfg.batch.gradient_accumulation_steps, planning.mesh_of(job)
    most = job.cfg.batch.rows // (mesh["data"] * mesh["fsdp"])
    more = [parts * 2**i for i in range(1, 12) if parts * 2**i <= most]
    yield from ({"microbatches": count} for count in more)
    if job.cfg.model.remat != "full":
        yield from ({"remat": "full", "microbatches": count} for count in (parts, *more))
    least = _least_data(job)
    if mesh["data"] > least:
        whole = {"data": least, "fsdp": mesh["data"] * mesh["fsdp"] // least, "remat": "full"}
        yield from (whole | {"microbatches": count} for count in (parts, *more))
    for tensor in TENSOR[1:]:
        if tensor > mesh["tensor"] and mesh["fsdp"] % (tensor // mesh["tensor"]) == 0:
            fsdp = mesh["data"] * mesh["fsdp"] * mesh["tensor"] // tensor // least
            split = {"data": least, "fsdp": fsdp, "tensor": tensor, "remat": "full"}
            room = job.cfg.batch.rows // (least * fsdp)
            yield from (split | {"microbatches": 2**i} for i in range(12) if 2**i <= room)


def _least_data(job: planning.Job) -> int:
    """The least size of data: it lies across TPU slices."""
    return job.topology.slices if job.topology.is_tpu else 1


def _key(name):
    return {"microbatches": "batch.gradient_accumulation_steps", "remat": "model.remat"}.get(name, f"mesh.{name}")

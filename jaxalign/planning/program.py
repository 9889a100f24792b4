"""What a traced step does, read from its jaxpr before anything is compiled: arithmetic, collectives, what is kept for the backward pass.

All shardings of the step are part of its types, so the trace contains what every device computes and sends. A collective is counted as the
program asks for it; what the compiler makes of it is read from the compiled program (`hlo`).
"""

from collections.abc import Callable, Iterator
import dataclasses
import math

import numpy as np

from jaxalign.lm_head import chunks
from jaxalign.models.attention import pallas_tpu, xla
from jaxalign.planning import network

SENT = {  # share of the whole array that each of n devices sends
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
NAMES = {  # of primitives
    **{"all_gather": "all-gather", "all_gather_invariant": "all-gather", "reduce_scatter": "reduce-scatter", "psum": "all-reduce"},
    **{"psum_invariant": "all-reduce", "pmax": "all-reduce", "all_to_all": "all-to-all", "ppermute": "collective-permute"},
}
VIEWS = {"convert_element_type", "transpose", "reshape", "copy", "mul", "optimization_barrier"}  # between a sum and the split of it


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a device, in a step."""

    kind: str  # a key of SENT
    axes: tuple[str, ...]  # of the mesh
    sent_bytes: float  # by one device each time
    times: float
    loop: str  # where: "layers", "head", ...; "" outside of loops
    network: float = 0.0  # share of the bytes that goes over the network between slices or nodes


@dataclasses.dataclass
class Work:
    """What one device does in a step."""

    flops: float = 0.0  # in matrix products
    kernel_flops: float = 0.0  # of these, within kernels, of which the compiler knows nothing
    moved_bytes: float = 0.0  # operands and results of matrix products, each once
    saved_bytes: float = 0.0  # what loops over the layers keep for the backward pass
    layer_bytes: float = 0.0  # largest working set of one layer: gathered weights and results of matrix products
    head_bytes: float = 0.0  # the same of the output head
    collectives: list[Collective] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the trace itself does not contain."""

    depths: frozenset[int]  # layers of the decoders that are trained: lengths of loops over layers
    vocabulary: int  # columns of the head
    mesh: dict[str, int]
    slice_devices: int  # of a slice or node, which links connect
    platform: str
    tokens: float  # of a device in one microbatch, with padding
    scored: float  # of these, those that go through the head
    seen: float  # tokens that a token attends to, on average

    def met(self, block: int) -> float:
        """Blocks of keys that a block of queries meets on average, where attention leaves the others out."""
        return self.seen / block + 1


def work_of(jaxpr, setting: Setting) -> Work:
    """The work of a closed jaxpr whose shardings are explicit."""
    walk = _Walk(setting)
    walk.visit(jaxpr.jaxpr, 1.0, "", local=False)
    return walk.work


def local_bytes(aval) -> float:
    """Bytes of a device's part of an array."""
    shape = local_shape(aval)
    return math.prod(shape) * np.dtype(aval.dtype).itemsize if shape is not None else 0.0


def local_shape(aval) -> tuple[float, ...] | None:
    """Sizes of a device's part; None of what is no array of numbers."""
    try:
        np.dtype(aval.dtype)
    except (AttributeError, TypeError):
        return None
    return tuple(size / parts for size, parts in zip(aval.shape, _parts(aval), strict=True))


def _axes(aval) -> list[tuple[str, ...]]:
    """Mesh axes that split each dimension."""
    spec = getattr(getattr(aval, "sharding", None), "spec", None)
    entries = [() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in spec or ()]
    return entries + [()] * (len(aval.shape) - len(entries))


def _parts(aval) -> list[int]:
    sharding = getattr(aval, "sharding", None)
    sizes = dict(sharding.mesh.shape) if sharding is not None and not sharding.mesh.empty else {}
    return [math.prod(sizes.get(name, 1) for name in names) for names in _axes(aval)]


class _Walk:
    def __init__(self, setting: Setting):
        self.setting, self.work = setting, Work()

    def visit(self, jaxpr, times: float, loop: str, *, local: bool) -> None:
        """Adds what the equations do, `times` over; local: inside shard_map, where a loop is none over the layers."""
        users = _users(jaxpr)
        chosen: dict = {}  # result of platform_index -> branch
        # by their name: a loop of attention may have products of the same shapes
        head = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "while" and chunks.SCOPE in str(eqn.source_info.name_stack)]
        left = self.setting.scored
        for eqn in jaxpr.eqns:
            name = eqn.primitive.name
            if name == "dot_general":
                self._dot(eqn, times, loop, users)
            elif name == "reshard":
                self._reshard(eqn, times, loop)
            elif name in NAMES:
                self._collective(eqn, times, loop)
            elif name == "platform_index":
                chosen[eqn.outvars[0]] = self._platform(eqn.params["platforms"])
            elif name == "cond":
                branches = eqn.params["branches"]
                index = chosen.get(eqn.invars[0], len(branches) - 1)
                self.visit(branches[index].jaxpr, times, loop, local=local)
            elif name == "scan":
                self._scan(eqn, times, loop, users, local=local)
            elif name == "while":
                if eqn in head:
                    chunk = self._chunk(eqn)
                    trips = math.ceil(left / chunk) if eqn is head[-1] else left // chunk
                    left -= trips * chunk
                    inside = f"{loop}/head".strip("/")
                    self.work.head_bytes = max(self.work.head_bytes, chunk * self._columns() * 4)
                else:
                    trips, inside = self.setting.met(xla.BLOCK), loop
                self.visit(eqn.params["body_jaxpr"].jaxpr, times * trips, inside, local=local)
            else:
                for inner in _inner(eqn):
                    if name == "pallas_call":
                        self._kernel(eqn, inner, times)
                    else:
                        self.visit(inner, times, loop, local=local or name == "shard_map")

    def _kernel(self, eqn, jaxpr, times):
        """A Pallas kernel: its matrix products at every point of the grid, though it may skip some; what it reads and writes, once.

        A grid whose size depends on the rows is that of attention, over the pairs of blocks that meet.
        """
        inside, pairs = _Walk(self.setting), self.setting.tokens / pallas_tpu.BLOCK * self.setting.met(pallas_tpu.BLOCK)
        sizes = [size if isinstance(size, int) else pairs for size in eqn.params["grid_mapping"].grid]  # one is known at run time alone
        inside.visit(jaxpr, times * math.prod(sizes), "", local=True)
        self.work.flops += inside.work.flops
        self.work.kernel_flops += inside.work.flops
        self.work.moved_bytes += times * sum(local_bytes(var.aval) for var in (*eqn.invars, *eqn.outvars))

    def _columns(self) -> float:
        return self.setting.vocabulary / self.setting.mesh.get("tensor", 1)

    def _chunk(self, eqn) -> float:
        # the gradient of the table has a row for each number of the width, not of a chunk; the list of a chunk's places tells its length
        body, columns = eqn.params["body_jaxpr"].jaxpr, self._columns()
        sliced = (one.outvars[0].aval for one, _ in _flat(body, 0) if one.primitive.name == "dynamic_slice")
        return min([x.shape[0] for x in sliced if x.ndim == 1] or [math.prod(y) / columns for y in _dots(body) if columns in y[-1:]])

    def _platform(self, platforms) -> int:
        ours = {self.setting.platform} | ({"cuda"} if self.setting.platform == "gpu" else set())
        for index, names in enumerate(platforms):
            if names is None or ours & set(names):
                return index
        return len(platforms) - 1

    def _scan(self, eqn, times, loop, users, *, local):
        length, inner = eqn.params["length"], eqn.params["jaxpr"].jaxpr
        if length not in self.setting.depths or local:
            self.visit(inner, times * length, loop, local=local)
            return
        stacked = eqn.outvars[_lengths(eqn)[1] :]
        again = [var for var in stacked if any(_reads_by_layer(user, var) for user in users.get(var, ()))]
        self.work.saved_bytes += sum(local_bytes(var.aval) for var in again)
        self.work.layer_bytes = max(self.work.layer_bytes, _layer_bytes(inner))
        self.visit(inner, times * length, f"{loop}/layers".strip("/"), local=local)

    def _dot(self, eqn, times, loop, users):
        left, right, out = eqn.invars[0].aval, eqn.invars[1].aval, eqn.outvars[0]
        contracted = eqn.params["dimension_numbers"][0][0]
        shape, result = local_shape(left), local_shape(out.aval)
        self.work.flops += times * 2 * math.prod(result) * math.prod(shape[i] for i in contracted)
        self.work.moved_bytes += times * (local_bytes(left) + local_bytes(right) + local_bytes(out.aval))
        summed = tuple(name for i in contracted for name in _axes(left)[i])
        if (parts := self._size(summed)) > 1:
            split = _split_after(out, users)
            kind = "reduce-scatter" if set(split) & set(summed) else "all-reduce"
            self._add(kind, summed, local_bytes(out.aval), parts, times, loop)

    def _reshard(self, eqn, times, loop):
        source, target = eqn.invars[0].aval, eqn.outvars[0].aval
        joined = tuple(name for names in _axes(source) for name in names if name not in {n for other in _axes(target) for n in other})
        if (parts := self._size(joined)) > 1:
            self._add("all-gather", joined, local_bytes(target), parts, times, loop)

    def _collective(self, eqn, times, loop):
        kind = NAMES[eqn.primitive.name]
        names = eqn.params.get("axes", eqn.params.get("axis_name"))
        names = tuple(name for name in ((names,) if isinstance(names, str) else names) if isinstance(name, str))
        parts = self._size(names)
        if parts > 1:
            arrays = eqn.invars if kind == "reduce-scatter" else eqn.outvars
            self._add(kind, names, sum(local_bytes(var.aval) for var in arrays), parts, times, loop)

    def _size(self, names) -> int:
        return math.prod(self.setting.mesh.get(name, 1) for name in names)

    def _add(self, kind, axes, whole, parts, times, loop):
        if "head" in loop.split("/") or not times:
            self.work.head_bytes = max(self.work.head_bytes, whole)
        used = tuple(name for name in axes if self.setting.mesh.get(name, 1) > 1)
        outside = network.share(kind, used, self.setting.mesh, self.setting.slice_devices)
        self.work.collectives.append(Collective(kind, used, whole * SENT[kind](parts), times, loop, outside))


def _layer_bytes(jaxpr) -> float:
    """Results of matrix products and gathered weights of a layer, and three times the largest result of an inner loop."""
    own, inner = 0.0, 0.0
    for eqn, depth in _flat(jaxpr, 0):
        if eqn.primitive.name in ("dot_general", "reshard", "all_gather"):
            size = local_bytes(eqn.outvars[0].aval)
            own, inner = (own + size, inner) if not depth else (own, max(inner, size))
    return own + 3 * inner


def _flat(jaxpr, depth: int) -> Iterator[tuple]:
    """(equation, depth of loops) of everything in a jaxpr."""
    for eqn in jaxpr.eqns:
        yield eqn, depth
        inner = _inner(eqn)
        for one in inner[-1:] if eqn.primitive.name == "cond" else inner:
            yield from _flat(one, depth + (eqn.primitive.name in ("scan", "while", "pallas_call")))


def _dots(jaxpr) -> list[tuple]:
    return [local_shape(eqn.outvars[0].aval) for eqn, _ in _flat(jaxpr, 0) if eqn.primitive.name == "dot_general"]


def _users(jaxpr) -> dict:
    users: dict = {}
    for eqn in jaxpr.eqns:
        for var in eqn.invars:
            if not hasattr(var, "val"):  # a literal
                users.setdefault(var, []).append(eqn)
    return users


def _reads_by_layer(eqn, var) -> bool:
    """Whether a loop reads the array slice by slice, as the backward pass reads what the forward pass kept."""
    if eqn.primitive.name != "scan":
        return False
    return var in eqn.invars[sum(_lengths(eqn)) :]


def _lengths(scan) -> tuple[int, int]:
    """How many inputs of a scan are constants, and how many are carried."""
    if "num_carry" in scan.params:
        return scan.params["num_consts"], scan.params["num_carry"]
    constants, carried, _ = scan.params["ft_in"].update(scan.invars).unpack()  # since jax 0.12
    return len(list(constants)), len(list(carried))


def _split_after(var, users) -> tuple[str, ...]:
    """Mesh axes that an array is split over right after it was made."""
    for _ in range(6):
        after = users.get(var, ())
        if len(after) != 1:
            return ()
        eqn = after[0]
        if eqn.primitive.name == "reshard":
            return tuple(name for names in _axes(eqn.outvars[0].aval) for name in names)
        if eqn.primitive.name not in VIEWS:
            return ()
        var = eqn.outvars[0]
    return ()


def _inner(eqn) -> list:
    """The jaxprs within an equation."""
    if eqn.primitive.name == "custom_vjp_call":
        values: list = [eqn.params["call_jaxpr"]]
    else:
        values = [x for value in eqn.params.values() for x in (value if isinstance(value, tuple | list) else (value,))]
    found = [getattr(value, "jaxpr", value) for value in values if not isinstance(value, Callable)]
    return [jaxpr for jaxpr in found if hasattr(jaxpr, "eqns")]

"""The mesh axes that every logical axis of an array is split over: one table, read by `mesh_axes`.

All meshes are Explicit (sharding is part of an array's type). A weight's shape and its logical axes are declared side by side in
`models`; "embed" lies on fsdp and context in storage and is gathered at the point of use (ZeRO-3), the other axes stay split (tensor
parallelism).

context splits the tokens of a row, so that few long rows use many devices. It splits what is as wide as the model and all that is computed
per token; numbers per token (ids, log-probs, columns) stay whole by row, so an objective sees whole rows on every mesh. Weights lie on it
too: it may be the only axis, and a row's devices would otherwise hold and sum what they could share out.

tensor splits heads, MLP and vocabulary, and between linear maps, where all is computed per token, the tokens instead (sequence parallelism,
arXiv 2205.05198): norms, residuals and what is kept of them are as much smaller. A map onto tensor gathers tokens, a map from it scatters
their sums; together they send what a sum sends. Tokens whose number tensor does not divide stay whole, and so do those of decoding.

On a TPU the size of fsdp is laid on two mesh axes, of which one is a physical axis of the torus: where a single mesh axis covers the whole
torus, XLA turns all-gathers and reduce-scatters into all-reduces of zero-filled arrays. Weights are gathered along one after the other.

Over several TPU slices only data lies across them, outermost, as the network between slices is a hundredth as fast as the links in one.
Gradients are scattered over fsdp within each slice, and what crosses the network is the sum over data of the parts that devices keep.
"""

from collections.abc import Sequence
import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

MESH_AXES = ("data", "fsdp", "fsdp_inner", "context", "tensor")
FSDP = ("fsdp", "fsdp_inner")  # mesh axes that make up the size of fsdp, the outer first

RULES: dict[str | None, tuple[str, ...]] = {
    "rows": ("data", *FSDP),  # batch rows, and the groups of those rows
    "tokens": ("context",),  # of a row, in arrays as wide as the model
    "all_tokens": ("data", *FSDP, "context"),  # rows and tokens as one dimension
    "spread_tokens": ("data", *FSDP, "context", "tensor"),  # the same between linear maps, where they divide
    "embed": (*FSDP, "context"),  # the width of every weight: sharded in storage, gathered at use
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "layers": (),
    "rank": (),  # of adapters
    None: (),
}


def make_mesh(
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence | None = None,
    *,
    context: int = 1,
    torus: Sequence[int] | None = None,
    slices: int | None = None,
) -> Mesh:
    """An Explicit mesh of data x fsdp x context x tensor devices; one of the four may be -1: all that are left.

    Args:
      data, fsdp, context, tensor: sizes.
      devices: None: all.
      torus: sizes of the physical axes that connect the devices; None: those of the devices, none where they are no TPUs.
      slices: how many slices the devices form, one after the other; None: the devices' own, one where they are no TPUs.

    Raises:
      ValueError: a size is 0, or the sizes do not multiply to the number of devices; errors of `check_slices`; slices differ in size.
    """
    devices = jax.devices() if devices is None else list(devices)
    data, fsdp, context, tensor = mesh_sizes(data, fsdp, context, tensor, devices=len(devices))
    outer, inner = split_fsdp(fsdp, torus_of(devices) if torus is None else torus)
    parts = _by_slice(devices, slices)
    check_slices(data, slices=len(parts), devices=len(devices))
    shape = data // len(parts), outer, inner, context, tensor
    # Split: fsdp = 8 on a torus of 4 x 4 x 4 chips takes one physical axis and half of another, which jax.make_mesh refuses.
    grids = [mesh_utils.create_device_mesh(shape, part, allow_split_physical_axes=True) for part in parts]
    return Mesh(np.concatenate(grids), MESH_AXES, axis_types=(AxisType.Explicit,) * len(MESH_AXES))


def whole_mesh() -> Mesh:
    """A mesh over all devices that splits parameters as far as the links go: fsdp within each slice, data over slices."""
    devices = jax.devices()
    return make_mesh(data=len(_by_slice(devices, None)), fsdp=-1, devices=devices)


def mesh_sizes(data: int, fsdp: int, context: int, tensor: int, *, devices: int) -> tuple[int, int, int, int]:
    """The sizes over so many devices, without -1; errors are those of `make_mesh`."""
    sizes = {"data": data, "fsdp": fsdp, "context": context, "tensor": tensor}
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            raise ValueError(f"mesh {axis}={size} is not a number of devices; use 1 or more, or -1 for all that are left.")
    left = devices // abs(math.prod(sizes.values()))
    chosen = tuple(left if size == -1 else size for size in sizes.values())
    if list(sizes.values()).count(-1) > 1 or math.prod(chosen) != devices:
        raise ValueError(
            f"mesh {' x '.join(f'{axis}={size}' for axis, size in sizes.items())} does not cover the {devices} devices here; "
            "choose sizes whose product is the number of devices, or give one of them as -1."
        )
    return chosen


def check_slices(data: int, *, slices: int, devices: int) -> None:
    """Raises ValueError where another axis than data would lie across TPU slices; devices: of all slices."""
    if data % slices:
        raise ValueError(
            f"mesh data={data} is no multiple of the {slices} TPU slices, so weights would go over the network between slices; set "
            f"mesh.data={slices}, or a multiple of it, and mesh.fsdp=-1, which splits them over the {devices // slices} devices of a slice."
        )


def split_fsdp(fsdp: int, torus: Sequence[int]) -> tuple[int, int]:
    """Sizes of the mesh axes FSDP: the inner one is a physical axis, the largest that leaves a rest to the others, or 1.

    torus: sizes of the physical axes.
    """
    inner = max((size for size in torus if size < fsdp and fsdp % size == 0), default=1)
    return fsdp // inner, inner


def torus_of(devices: Sequence) -> tuple[int, ...]:
    """Sizes of the physical axes that connect devices; () where they are no TPUs."""
    if devices[0].platform != "tpu":
        return ()
    return tuple(len(set(places)) for places in zip(*(device.coords for device in devices), strict=True))


def _by_slice(devices: Sequence, count: int | None) -> list[list]:
    """The devices of each slice, in the order of the slices."""
    if count is not None:
        indices = [number * count // len(devices) for number in range(len(devices))]
    else:
        indices = [getattr(device, "slice_index", 0) for device in devices]  # those of a single slice that is described may have none
    parts = [[device for device, index in zip(devices, indices, strict=True) if index == one] for one in sorted(set(indices))]
    if len({len(part) for part in parts}) > 1:
        sizes = ", ".join(str(len(part)) for part in parts)
        raise ValueError(f"the TPU slices here have {sizes} devices, and a mesh needs slices of one size; start the run on such slices.")
    return parts


def shapes_only(sizes: Sequence[int], platform: str):
    """A context to trace a step on an Explicit mesh of these sizes of MESH_AXES, without its devices, which are of this platform."""
    device, types = AbstractDevice(device_kind=platform, num_cores=None, platform=platform), (AxisType.Explicit,) * len(MESH_AXES)
    return jax.sharding.use_abstract_mesh(AbstractMesh(tuple(sizes), MESH_AXES, axis_types=types, abstract_device=device))


def check_rows(rows: int, *, parts: int = 1, hosts: int = 1, data: int = 1, fsdp: int = 1) -> None:
    """Raises ValueError where a global batch of so many rows does not split over hosts and devices, in so many parts.

    Args:
      parts: gradient accumulation steps, one after the other, each of which is split over the devices.
      hosts: processes.
      data, fsdp: sizes of these mesh axes.
    """
    unit = math.lcm(parts * data * fsdp, hosts)
    if rows < 1 or rows % unit:
        over = [f"batch.gradient_accumulation_steps={parts}"] if parts > 1 else []
        over += [f"{hosts} hosts"] if hosts > 1 else []
        over += [f"data={data} x fsdp={fsdp} = {data * fsdp} devices"] if data * fsdp > 1 or not over else []
        raise ValueError(f"batch.rows={rows} does not split over {' and '.join(over)}; use a multiple of {unit}.")


def check_tokens(row_tokens: int, *, context: int) -> None:
    """Raises ValueError where rows of so many tokens do not split over the mesh axis context of this size."""
    if row_tokens % context:
        raise ValueError(
            f"data.row_tokens={row_tokens} does not split over mesh.context={context}; use a multiple of {context}, or another size."
        )


def check_hosts(mesh: Mesh) -> None:
    """Raises ValueError where the devices that share a row lie on several hosts, of which each reads its own rows."""
    shared = math.prod(mesh.shape[name] for name in ("context", "tensor"))
    hosts = [{device.process_index for device in devices} for devices in mesh.devices.reshape(-1, shared)]
    if several := next((sorted(found) for found in hosts if len(found) > 1), None):
        sizes = " x ".join(f"mesh.{name}={mesh.shape[name]}" for name in ("context", "tensor"))
        raise ValueError(
            f"{sizes} = {shared} devices share each row, and some of them lie on hosts {', '.join(map(str, several))}, of which each reads "
            "its own rows; choose sizes whose product divides the devices of a host, and give the rest to mesh.fsdp."
        )


def no_devices():
    """A context to trace functions that need a mesh before there are devices: its axes are Auto, so arrays need no layout."""
    return jax.sharding.use_abstract_mesh(AbstractMesh((1,) * len(MESH_AXES), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES)))


def spec(*axes: str | None, shape: Sequence[int] | None = None) -> PartitionSpec:
    """The partition of an array with these logical axes, under RULES (see `mesh_axes`).

    With a shape, "kv_heads" that do not divide the tensor axis stay whole on every device (grouped-query attention with fewer
    key heads than tensor shards); any other axis that does not divide is an error.

    Raises:
      ValueError: an unknown axis name, or a dimension that the mesh does not divide.
    """
    entries = []
    for i, axis in enumerate(axes):
        names = mesh_axes(axis)
        parts = math.prod(_mesh().shape[name] for name in names)
        if shape is not None and shape[i] % parts:
            if axis != "kv_heads":
                raise ValueError(
                    f"axis {axis!r} of size {shape[i]} does not split over {' x '.join(names)} = {parts} devices; "
                    f"choose a mesh whose {' x '.join(names)} divides {shape[i]}."
                )
            names = ()
        entries.append(names[0] if len(names) == 1 else names or None)
    return PartitionSpec(*entries)


def mesh_axes(axis: str | None) -> tuple[str, ...]:
    """The axes of the mesh in scope that a logical axis is split over, without those of size 1.

    jax 0.12 drops the latter from the types of dimensions of size 1, though not of others: a batch of one row would have two types.

    Raises:
      ValueError: an unknown axis name.
    """
    if axis not in RULES:
        raise ValueError(f"unknown logical axis {axis!r}; the axes in RULES are {sorted(a for a in RULES if a)}.")
    return tuple(name for name in RULES[axis] if _mesh().shape.get(name, 1) > 1)


def mesh_shape(mesh: Mesh | AbstractMesh | None = None) -> dict[str, int]:
    """"data", "fsdp", "context" and "tensor" -> size in a mesh, by default the one in scope (`jax.set_mesh`); empty where there is none."""
    shape = (mesh or _mesh()).shape
    fsdp = math.prod(shape.get(axis, 1) for axis in FSDP)
    return {"data": shape["data"], "fsdp": fsdp, "context": shape["context"], "tensor": shape["tensor"]} if shape else {}


def _mesh() -> AbstractMesh:
    return jax.sharding.get_abstract_mesh()


def rows_spec(ndim: int) -> PartitionSpec:
    """The partition of an array whose first dimension is rows (or groups) and whose others are whole."""
    return spec("rows", *(None,) * (ndim - 1))


def shard(x, *axes: str | None):
    """x laid out by its logical axes (a reshard; no-op where it lies so already)."""
    return jax.reshard(x, spec(*axes, shape=x.shape))


def sum_tokens(weights: jax.Array, x: jax.Array) -> jax.Array:
    """The sums of x over the tokens of each row, wherever they lie: weights [R, S, T], x [R, T, ...] -> [R, S, ...].

    A product with zeros and a one copies a token's numbers, so it does not round them.
    """
    weights, partition = weights.astype(x.dtype), None
    if set(RULES["tokens"]) & set(axis_names(jax.typeof(x).sharding.spec[1])):
        weights, partition = shard(weights, "rows", None, "tokens"), rows_spec(x.ndim)
    return jax.numpy.einsum("rst,rt...->rs...", weights, x, precision=jax.lax.Precision.HIGHEST, out_sharding=partition)


def gather(w: jax.Array, *axes: str | None) -> jax.Array:
    """The weight w with its "embed" axis made whole on every device, outside of `shard_map`.

    The sum of its gradient over devices is left to the compiler; where a weight is large, `collectives` split that sum.
    """
    return jax.reshard(w, spec(*(None if axis == "embed" else axis for axis in axes), shape=w.shape))


def gather_whole(w: jax.Array) -> jax.Array:
    """As `gather`, by the partition that w has."""
    return jax.reshard(w, PartitionSpec(*without_embed(jax.typeof(w).sharding.spec)))


def fsdp_axes(partition: PartitionSpec) -> tuple[str, ...]:
    """The mesh axes that the "embed" axis of an array with this partition is split over, the outermost first."""
    return tuple(name for name in RULES["embed"] if any(name in axis_names(entry) for entry in partition))


def without_embed(partition: PartitionSpec) -> tuple:
    """The entries of the partition after its "embed" axis was gathered."""
    return tuple(None if set(RULES["embed"]) & set(axis_names(entry)) else entry for entry in partition)


def axis_names(entry) -> tuple[str, ...]:
    """The mesh axes of one entry of a partition."""
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)


def named(partition: PartitionSpec) -> NamedSharding:
    """The partition on the mesh in scope, for arrays made on the host; on an abstract mesh (`shapes_only`) for shapes alone."""
    concrete = jax.sharding.get_mesh()
    return NamedSharding(jax.sharding.get_abstract_mesh() if concrete.empty else concrete, partition)

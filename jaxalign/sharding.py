"""The mesh axes that every logical axis of an array is split over: one table, read by `mesh_axes`.

All meshes are Explicit (sharding is part of an array's type). A weight's shape and its logical axes are declared side by side in
`models`; "embed" lies on fsdp in storage and is gathered at the point of use (ZeRO-3), the other axes stay split (tensor parallelism).
"""

from collections.abc import Sequence
import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

MESH_AXES = ("data", "fsdp", "tensor")

RULES: dict[str | None, tuple[str, ...]] = {
    "rows": ("data", "fsdp"),  # batch rows, and the groups of those rows
    "embed": ("fsdp",),  # the width of every weight: sharded in storage, gathered at use
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "layers": (),
    "rank": (),  # of adapters
    None: (),
}


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence | None = None) -> Mesh:
    """An Explicit mesh of data x fsdp x tensor devices; one of the three may be -1: all that are left.

    Raises:
      ValueError: a size is 0, or the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [data, fsdp, tensor]
    for axis, size in zip(MESH_AXES, sizes, strict=True):
        if size < 1 and size != -1:
            raise ValueError(f"mesh {axis}={size} is not a number of devices; use 1 or more, or -1 for all that are left.")
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = len(devices) // -int(np.prod(sizes))
    if min(sizes) < 1 or np.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh data={data} x fsdp={fsdp} x tensor={tensor} does not cover the {len(devices)} devices here; "
            "choose sizes whose product is the number of devices, or give one of them as -1."
        )
    # Split: fsdp = 8 on a torus of 4 x 4 x 4 chips takes one physical axis and half of another, which jax.make_mesh refuses.
    grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Explicit,) * 3)


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


def no_devices():
    """A context to trace functions that need a mesh before there are devices: its axes are Auto, so arrays need no layout."""
    return jax.sharding.use_abstract_mesh(AbstractMesh((1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3))


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
        parts = int(np.prod([mesh_shape()[name] for name in names]))
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
    return tuple(name for name in RULES[axis] if mesh_shape().get(name, 1) > 1)


def mesh_shape() -> dict[str, int]:
    """Axis name -> size of the mesh in scope (`jax.set_mesh`); empty where there is none."""
    return dict(jax.sharding.get_abstract_mesh().shape)


def rows_spec(ndim: int) -> PartitionSpec:
    """The partition of an array whose first dimension is rows (or groups) and whose others are whole."""
    return spec("rows", *(None,) * (ndim - 1))


def shard(x, *axes: str | None):
    """x laid out by its logical axes (a reshard; no-op where it lies so already)."""
    return jax.reshard(x, spec(*axes, shape=x.shape))


def gather(w: jax.Array, *axes: str | None) -> jax.Array:
    """The weight w with its "embed" axis made whole on every device: the all-gather of ZeRO-3, at the point of use."""
    return jax.reshard(w, spec(*(None if axis == "embed" else axis for axis in axes), shape=w.shape))


def split_axis(x: jax.Array, parts: int, rows: int) -> jax.Array:
    """[R * G, ...] -> [parts, R / parts * G, ...]: microbatch m takes rows m, parts + m, ... so that no row changes its device.

    Every row brings its x.shape[0] // rows consecutive entries. `parts` must divide `rows`.
    """
    groups, rest = x.shape[0] // rows, (None,) * (x.ndim - 1)
    # The output shardings are explicit: inference would drop the mesh axis of a dimension of size 1.
    by_row = x.reshape(rows // parts, parts, groups, *x.shape[1:], out_sharding=spec("rows", None, None, *rest))
    pieces = jax.numpy.moveaxis(by_row, 1, 0)
    return pieces.reshape(parts, rows // parts * groups, *x.shape[1:], out_sharding=spec(None, "rows", *rest))


def named(partition: PartitionSpec) -> NamedSharding:
    """The partition on the concrete mesh in scope, for arrays made on the host."""
    return NamedSharding(jax.sharding.get_mesh(), partition)

"""Attention under the one rule of `types.Batch`, by an implementation of `IMPLEMENTATIONS`: the one named, or the one for the devices.

Token i sees token j iff j <= i, segments[i] != 0 and segments[j] is segments[i] or prefixes[i]; with a window also
positions[i] - positions[j] < window. An implementation is plain local code: `attend` runs it on each device's own rows and heads. Where
the tokens of a row are split too, a device has the queries of its own tokens and gathers the keys and values of all of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign import sharding
from jaxalign.models.attention import xla

Array = jax.Array
AUTO = "auto"  # the name that leaves the choice to the devices


class Implementation(NamedTuple):
    """One way to attend."""

    # () -> a module, imported where it is needed (the machinery of kernels takes a quarter of a second), with two functions:
    #   attend_locally(q, k, v, positions, segments, prefixes, window, first, *, softcap) -> the attention of one device's rows and heads,
    #     of queries that are those of the places `first`, first + 1, ... of each row; all else has its whole rows
    #   refusal(head_dim, device_kind) -> why it cannot attend with heads of this size on such devices; None: it can
    load: Callable
    platform: str | None = None  # of the devices that it is for, as in jax.Device.platform; None: it runs on all
    takes_parts: bool = True  # of the queries of a row; False: `first` must be 0, and queries are those of the whole row


def choose(name: str, head_dim: int) -> tuple[str, str]:
    """(the implementation that `name` is on the devices of the mesh in scope, why), for heads of head_dim elements.

    "auto" is the implementation for the platform of those devices, which need not be that of this process (a program compiled ahead of
    time), where there is one and it can attend with such heads, and "xla" otherwise. Without devices, where only shapes are asked for, it
    is "xla" too.

    Raises:
      ValueError: an unknown name, or an implementation that cannot run on these devices or with these heads.
    """
    if name != AUTO and name not in IMPLEMENTATIONS:
        raise ValueError(f"unknown attention {name!r}; choose one of {sorted((AUTO, *IMPLEMENTATIONS))}.")
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform, kind = (device.platform, device.device_kind) if device else (None, None)
    if name != AUTO:
        chosen = IMPLEMENTATIONS[name]
        if platform and chosen.platform not in (None, platform):
            raise ValueError(f"model.attention={name!r} runs on {chosen.platform}, and the devices are {platform}; set it to 'auto'.")
        if reason := _refusal(chosen, head_dim, kind):
            raise ValueError(f"model.attention={name!r} cannot be used: {reason}; set it to 'auto'.")
        return name, "as named"
    made_for = [one for one, chosen in IMPLEMENTATIONS.items() if chosen.platform == platform and platform]
    refusals = {one: _refusal(IMPLEMENTATIONS[one], head_dim, kind) for one in made_for}
    able = [one for one in made_for if not refusals[one]]
    if able:
        return able[0], f"made for {platform}"
    return "xla", "; ".join(f"not {one}: {reason}" for one, reason in refusals.items()) or f"the one for {platform or 'any platform'}"


def _refusal(chosen: Implementation, head_dim: int, kind: str | None) -> str | None:
    if not chosen.takes_parts and sharding.mesh_axes("tokens"):
        return "mesh.context splits the tokens of a row, and it attends to whole rows"
    return chosen.load().refusal(head_dim, kind)


def attend(
    q: Array, k: Array, v: Array, positions: Array, segments: Array, prefixes: Array, window: Array, *, softcap: float, implementation: str
) -> Array:
    """Attention of scaled queries q [R, T, H, E] over k, v [R, T, KV, E]: [R, T, H, E] in q's dtype, zeros on padding.

    positions, segments, prefixes are int32[R, T]; window is int32[], 0 = none; softcap caps the scores, 0 = none.

    implementation is a name, or "auto"; see `choose` for what that is and for errors.
    """
    name, _ = choose(implementation, q.shape[-1])
    k, v = split_heads(q, k, v)
    attend_locally, along = IMPLEMENTATIONS[name].load().attend_locally, sharding.mesh_axes("tokens")
    by_head, by_row = sharding.spec("rows", "tokens", "heads", None), sharding.rows_spec(2)

    def local(q, k, v, *ids):
        k, v = (_whole_rows(x, along) if along else x for x in (k, v))
        first = jax.lax.axis_index(along) * q.shape[1] if along else 0
        return attend_locally(q, k, v, *ids, first, softcap=softcap)

    in_specs = (by_head, by_head, by_head, by_row, by_row, by_row, sharding.spec())
    mapped = jax.shard_map(local, in_specs=in_specs, out_specs=by_head, check_vma=False)
    return mapped(q, k, v, positions, segments, prefixes, window)


def _whole_rows(x: Array, along: tuple[str, ...]) -> Array:
    """A device's part [R, T / n, ...] of rows whose tokens lie on n devices -> [R, T, ...]; its gradient is a reduce-scatter.

    The parts get a dimension of their own, in front: of one that is stored innermost a TPU would reduce all.
    """
    parts = jax.lax.all_gather(x, along, axis=0, tiled=False)
    return jnp.moveaxis(parts, 0, 1).reshape(len(x), -1, *x.shape[2:])


def split_heads(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
    """k and v [R, T, KV, E], split over "tensor" like q [R, T, H, E].

    Where there are fewer key heads than shards, every shard gets those that its queries need, and the result has H heads.
    """
    if jax.typeof(k).sharding.spec[2] is not None or sharding.mesh_shape()["tensor"] == 1:
        return k, v
    k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    return sharding.shard(k, "rows", "tokens", "heads", None), sharding.shard(v, "rows", "tokens", "heads", None)


def _pallas_gpu():
    from jaxalign.models.attention import pallas_gpu

    return pallas_gpu


def _pallas_tpu():
    from jaxalign.models.attention import pallas_tpu

    return pallas_tpu


IMPLEMENTATIONS = {  # where several are made for one platform, "auto" takes the first
    "xla": Implementation(lambda: xla),
    "pallas_gpu": Implementation(_pallas_gpu, "gpu", takes_parts=False),
    "pallas_tpu": Implementation(_pallas_tpu, "tpu"),
}

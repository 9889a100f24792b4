"""Adapters added into the kernels that they belong to: an ordinary model, which gives what the adapted one gives but for rounding."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxalign import sharding
from jaxalign.models import lora
from jaxalign.models import model as models

Array = jax.Array


def merged(model: models.Model, params: dict[str, Any]) -> tuple[models.Model, dict[str, Any]]:
    """(the model without adapters, its parameters: W + scale A B, summed in float32 and stored as W is); as given where it has none.

    Adapters that are not among the params are off, and nothing is added.
    """
    if model.lora is None:
        return model, params
    trees = {name: lora.off(getattr(model, name)) for name in ("shapes", "axes", "starts")}
    plain, whole = dataclasses.replace(model, lora=None, **trees), lora.off(params)
    return plain, {**whole, **_merged(whole, params.get(lora.LORA, {}), model.axes, model.lora.scale)}


def _merged(tree, adapters, axes, scale):
    if lora.A in adapters:
        return {**tree, "kernel": _sum(tree["kernel"], adapters[lora.A], adapters[lora.B], axes["kernel"], scale)}
    return {**tree, **{name: _merged(tree[name], below, axes[name], scale) for name, below in adapters.items()}}


@functools.partial(jax.jit, static_argnums=(3, 4))
def _sum(kernel: Array, a: Array, b: Array, axes: tuple[str | None, ...], scale: float) -> Array:
    """One layer after the other, so that no float32 copy of the whole stack is ever there."""
    inputs = a.ndim - 2

    def layer(weights):
        kernel, a, b = weights
        a, b = sharding.gather(a, *axes[1 : 1 + inputs], None), sharding.gather(b, None, *axes[1 + inputs :])
        dims = (((inputs,), (0,)), ((), ()))
        place = sharding.spec(*(None if axis == "embed" else axis for axis in axes[1:]), shape=kernel.shape)
        product = jax.lax.dot_general(a, b, dims, precision=jax.lax.Precision.HIGHEST, out_sharding=place)
        return (kernel.astype(jnp.float32) + scale * sharding.shard(product, *axes[1:])).astype(kernel.dtype)

    return jax.lax.map(layer, (kernel, a, b))

"""Adapters added into the kernels that they belong to: an ordinary model, which gives what the adapted one gives but for rounding."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxalign import sharding
from jaxalign.models import lora, quantized
from jaxalign.models import model as models

Array = jax.Array


def merged(model: models.Model, params: dict[str, Any]) -> tuple[models.Model, dict[str, Any]]:
    """(the model without adapters, its parameters: W + scale A B, summed in float32 and stored as W is); as given where it has none.

    Adapters that are not among the params are off, and nothing is added. Quantized kernels become those of bfloat16 that they stand for: in
    few bits the sum would be another one.
    """
    if model.lora is None:
        return model, params
    trees = {name: lora.off(getattr(model, name)) for name in ("shapes", "axes", "starts")}
    trees |= {"shapes": _over(trees["shapes"], _plain_shape), "axes": _over(trees["axes"], lambda axes: axes.scales)}
    dtype = "bfloat16" if model.base_dtype in quantized.KINDS else model.base_dtype
    plain, whole = dataclasses.replace(model, lora=None, base_dtype=dtype, **trees), lora.off(params)
    whole = jax.tree.map(
        lambda leaf, axes: _dequantized(leaf, axes) if quantized.is_quantized(leaf) else leaf,
        whole, {name: plain.axes[name] for name in whole}, is_leaf=quantized.is_quantized,
    )  # fmt: skip
    return plain, {**whole, **_merged(whole, params.get(lora.LORA, {}), plain.axes, model.lora.scale)}


def _over(tree, change):
    return jax.tree.map(lambda leaf: change(leaf) if quantized.is_quantized(leaf) else leaf, tree, is_leaf=_is_end)


def _is_end(leaf) -> bool:
    return quantized.is_quantized(leaf) or isinstance(leaf, tuple)


def _plain_shape(shape: quantized.Quantized) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(quantized.kernel_shape(shape), jnp.bfloat16)


@functools.partial(jax.jit, static_argnums=1)
def _dequantized(stack: quantized.Quantized, axes: tuple[str | None, ...]) -> Array:
    place = sharding.spec(*axes[1:], shape=quantized.kernel_shape(stack)[1:])
    return jax.lax.map(lambda kernel: quantized.dequantized(kernel, jnp.bfloat16, place=place), stack)


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

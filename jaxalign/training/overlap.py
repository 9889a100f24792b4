"""The options of XLA with which the gathers of ZeRO-3 run beside the arithmetic of a train step on TPUs.

While one weight is multiplied, the next is gathered. XLA does so by itself on v5e; on v5p and v6e it waits for every gather. What
LIBTPU_INIT_ARGS sets stands: LIBTPU_INIT_ARGS=--xla_enable_async_all_gather=false goes back to gathers that are waited for.
"""

from collections.abc import Callable
import functools
import os
import re
import warnings

import jax
import jax.numpy as jnp

from jaxalign import sharding

OPTIONS = {"tpu": ("xla_enable_async_all_gather", "xla_tpu_enable_async_collective_fusion_fuse_all_gather")}  # one alone does nothing


def options() -> dict[str, bool]:
    """The options for the devices of the mesh in scope: without those that their compiler does not know or LIBTPU_INIT_ARGS sets.

    Empty without devices, as on an abstract mesh.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return {}
    by_user = re.findall(r"--(\w+)", os.environ.get("LIBTPU_INIT_ARGS", ""))
    names = OPTIONS.get(mesh.devices.flat[0].platform, ())
    return {name: True for name in names if name not in by_user and _known(mesh, name)}


def overlapped(step: Callable) -> Callable:
    """A jitted (state, batch) -> (state, metrics), compiled with the options; itself where there are none."""
    chosen = options()
    return jax.jit(step, donate_argnums=0, compiler_options=chosen) if chosen else step


@functools.cache
def _known(mesh: jax.sharding.Mesh, name: str) -> bool:
    """Whether the compiler for the mesh in scope takes an option, which a version may lack; a program of one instruction is compiled."""
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding.named(sharding.spec()))
    with warnings.catch_warnings(action="ignore"):  # a kept program of devices that are only described cannot be read again
        try:
            jax.jit(jnp.negative).lower(number).compile({name: True})
        except jax.errors.JaxRuntimeError:
            return False
    return True

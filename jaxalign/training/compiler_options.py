"""The options of XLA with which a train step is compiled, by platform. What the user sets in LIBTPU_INIT_ARGS or XLA_FLAGS stands.

On TPUs the gathers of ZeRO-3 run beside the arithmetic: while one weight is multiplied, the next is gathered. XLA does so by itself on v5e;
on v5p and v6e it waits for every gather. LIBTPU_INIT_ARGS=--xla_enable_async_all_gather=false goes back to gathers that are waited for.

On GPUs the kernels of a step are launched one by one. XLA would record them as CUDA graphs, which it brings up to date in every turn of
the loops over layers and chunks: that takes 4 % of a step of 1B (tests/benchmarks/RESULTS.md).
"""

from collections.abc import Callable
import functools
import os
import re
import warnings

import jax
import jax.numpy as jnp

from jaxalign import sharding

OPTIONS: dict[str, dict[str, bool | str]] = {
    "tpu": {"xla_enable_async_all_gather": True, "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True},  # one alone does nothing
    "gpu": {"xla_gpu_enable_command_buffer": ""},
}
GATHERS_AHEAD = ("tpu",)  # platforms on which the weights of one layer are gathered while another one computes
BY_USER = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")  # environment variables


def options() -> dict[str, bool | str]:
    """The options for the devices of the mesh in scope: without those that their compiler does not know or the user sets.

    Empty without devices, as on an abstract mesh.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return {}
    by_user = {name for variable in BY_USER for name in re.findall(r"--(\w+)", os.environ.get(variable, ""))}
    chosen = OPTIONS.get(mesh.devices.flat[0].platform, {})
    return {name: value for name, value in chosen.items() if name not in by_user and _known(mesh, name, value)}


def with_options(step: Callable) -> Callable:
    """A jitted (state, batch) -> (state, metrics), compiled with the options; itself where there are none."""
    chosen = options()
    return jax.jit(step, donate_argnums=0, compiler_options=chosen) if chosen else step


@functools.cache
def _known(mesh: jax.sharding.Mesh, name: str, value: bool | str) -> bool:
    """Whether the compiler for the mesh in scope takes an option, which a version may lack; a program of one instruction is compiled."""
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding.named(sharding.spec()))
    with warnings.catch_warnings(action="ignore"):  # a kept program of devices that are only described cannot be read again
        try:
            jax.jit(jnp.negative).lower(number).compile({name: value})
        except jax.errors.JaxRuntimeError:
            return False
    return True

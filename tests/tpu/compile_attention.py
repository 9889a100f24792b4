"""Compiles the attention kernels for TPUs ahead of time, values and gradients, and prints how many kernels each program has, as JSON.

    python compile_attention.py v5e:2x2 v5p:2x2x1 v6e:2x2

Needs libtpu and no TPU. Everything is a shape. A process of its own, because libtpu reads its environment once.
"""

import functools
import json
import os
import sys

os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE="v5p-128")

import jax  # noqa: E402
from jax.experimental import topologies  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from jaxalign import sharding  # noqa: E402
from jaxalign.models.attention import rule  # noqa: E402

LENGTH = 4096
CASES = (  # heads, key heads, elements of a head, cap, dtype; all for the first slice, the first one for every slice
    (4, 2, 128, 0.0, jnp.bfloat16),
    (4, 4, 64, 0.0, jnp.bfloat16),
    (4, 4, 256, 50.0, jnp.float32),
)


def kernels(topology: str, heads: int, kv_heads: int, size: int, cap: float, dtype) -> int:
    """Kernels in the program of attention and its gradients, with rows and heads split over all chips of the slice."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices

    def run(q, k, v, direction, *marks):
        attend = functools.partial(rule.attend, softcap=cap, implementation="auto")
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, *marks), q, k, v)
        return out, *pull(direction)

    with jax.set_mesh(sharding.make_mesh(1, len(devices) // 2, 2, devices=devices)):

        def shaped(dtype, *shape, axes=()):
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.named(sharding.spec(*axes)))

        rows = len(devices) // 2
        q, k = (shaped(dtype, rows, LENGTH, n, size, axes=("rows", None, "heads", None)) for n in (heads, kv_heads))
        marks = shaped(jnp.int32, rows, LENGTH, axes=("rows", None))
        compiled = jax.jit(run).lower(q, k, k, q, marks, marks, marks, shaped(jnp.int32)).compile()
    return compiled.as_text().count('custom_call_target="tpu_custom_call"')


def main(names: list[str]) -> None:
    counts = {name: [kernels(name, *case) for case in (CASES if name == names[0] else CASES[:1])] for name in names}
    print(json.dumps(counts))


if __name__ == "__main__":
    main(sys.argv[1:])

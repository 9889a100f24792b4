"""Compiles an update whose moments rest on the host for one chip of a TPU, ahead of time, and prints bytes of it as one line of JSON.

    python compile_update.py v5e:2x2

Needs libtpu and no TPU. A process of its own, because libtpu reads its environment once.
"""

import functools
import json
import os
import sys

os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE="v5p-128")

import jax  # noqa: E402
from jax.experimental import topologies  # noqa: E402
import optax  # noqa: E402

from jaxalign import offload, sharding  # noqa: E402
from jaxalign.models import model as models  # noqa: E402
from jaxalign.models.config import ModelConfig  # noqa: E402
from jaxalign.training import checkpoint, optim, reference, step  # noqa: E402

CONFIG = ModelConfig(
    family="llama", vocab_size=2048, width=512, layers=24, heads=8, kv_heads=2, head_dim=64, mlp_width=1792, max_positions=512
)  # fmt: skip


def main(topology: str) -> None:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[:1]
    model = models.build(CONFIG)
    optimizer = optim.make_optimizer(
        optim.adamw, optax.constant_schedule(1e-3), max_grad_norm=1.0, weight_decay=0.1, axes=model.axes, by_layer=True
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, gradient):
        updates, after = optimizer.update(gradient, state.opt_state, state.trainable)
        return state.replace(trainable=optax.apply_updates(state.trainable, updates), opt_state=after)

    with jax.set_mesh(sharding.make_mesh(devices=devices, slices=1)):
        params = jax.tree.map(
            lambda x, partition: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.named(partition)),
            model.shapes,
            models.shardings(model),
        )
        init = functools.partial(step.init_state, optimizer=optimizer, rule=reference.RULES["none"], seed=0)
        state = offload.described(checkpoint.abstract_like(jax.eval_shape(init, params)), ("optimizer",))
        compiled = update.lower(state, state.trainable).compile()
    memory = compiled.memory_analysis()
    report = {
        "parameters": sum(x.size * 4 for x in jax.tree.leaves(state.trainable)),
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "host": memory.host_argument_size_in_bytes,
        "donated_on_host": memory.host_alias_size_in_bytes,
        "host_calls": compiled.as_text().count("HostExecute"),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])

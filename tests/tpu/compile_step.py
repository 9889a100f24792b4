"""Compiles the DPO train step for a TPU slice, ahead of time, and prints what the compiler says as one line of JSON.

    python compile_step.py v5e:4x4 1 2 4 2          topology, then data, fsdp, tensor and context

Needs libtpu and no TPU. Everything is a shape: nothing is allocated. A process of its own, because libtpu reads its environment once.
"""

import functools
import json
import math
import os
import re
import sys
import time

os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE="v5p-128")

import jax  # noqa: E402
from jax.experimental import topologies  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from jaxalign import objectives, sharding  # noqa: E402
from jaxalign.models import model as models  # noqa: E402
from jaxalign.models.config import ModelConfig  # noqa: E402
from jaxalign.planning import hlo  # noqa: E402
from jaxalign.training import compiler_options, forward, optim, reference, step  # noqa: E402
from jaxalign.types import Batch, TrainState  # noqa: E402

CONFIG = ModelConfig(  # Llama 3's vocabulary and ratios, an eighth of its depth
    family="llama", vocab_size=128_256, width=1024, layers=4, heads=16, kv_heads=4, head_dim=64, mlp_width=3584, max_positions=8192
)  # fmt: skip
ROWS_A_DEVICE, LENGTH, GROUPS = 2, 512, 2
HOST = re.compile(r'infeed|outfeed|xla_python|callback|send-to-host|recv-from-host|is_host_transfer=true|custom_call_target="[^"]*[Hh]ost')
ARRAY = re.compile(r"\b(pred|bf16|[fsu]\d+)\[([\d,]+)\]")
REDUCED = re.compile(r"= (.+?) all-reduce(?:-start)?\(")


def abstract_state(model, optimizer) -> TrainState:
    """The state of a DPO run as shapes with shardings, on the mesh in scope."""
    whole = jax.sharding.PartitionSpec()

    def shaped(x, partition=whole):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.named(partition))

    params = jax.tree.map(shaped, model.shapes, models.shardings(model))
    init = functools.partial(step.init_state, optimizer=optimizer, rule=reference.RULES["frozen"], seed=0)
    return jax.tree.map(lambda x: shaped(x, x.sharding.spec if x.sharding else whole), jax.eval_shape(init, params))


def abstract_batch(rows: int) -> Batch:
    """A batch of pairs as shapes with shardings, on the mesh in scope."""

    def shaped(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.named(sharding.rows_spec(len(shape))))

    token, groups = shaped(jnp.int32, rows, LENGTH), rows * GROUPS
    return Batch(*(token,) * 5, shaped(jnp.float32, groups, 2), shaped(jnp.bool_, groups), shaped(jnp.bool_, groups, 2))


def reduced_elements(text: str) -> int:
    """Elements of the largest array that an all-reduce gives; those of which every device keeps a part are the TPU's reduce-scatters."""
    largest, scatters = 0, False
    for line in text.splitlines():
        if line and not line[0].isspace():
            scatters = "scatter" in line.split("(")[0]  # the name of the computation whose instructions follow
        elif not scatters and (found := REDUCED.search(line)):
            largest = max(largest, *(math.prod(map(int, sizes.split(","))) for _, sizes in ARRAY.findall(found.group(1))), 0)
    return largest


def main(topology: str, data: int, fsdp: int, tensor: int, context: int) -> None:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    model = models.build(CONFIG)
    schedule = optim.make_schedule("cosine", learning_rate=1e-6, warmup_steps=10, total_steps=100, min_lr_ratio=0.1)
    optimizer = optim.make_optimizer(optim.adamw, schedule, max_grad_norm=1.0, weight_decay=0.1, axes=model.axes)
    look = functools.partial(forward.next_token, model, dtype=jnp.bfloat16, remat="full", attention="auto")
    train_step = step.make_train_step(look, objectives.bind("dpo"), reference.frozen, optimizer, schedule)
    with jax.set_mesh(sharding.make_mesh(data, fsdp, tensor, devices=devices, context=context)):
        state, batch = abstract_state(model, optimizer), abstract_batch(ROWS_A_DEVICE * data * fsdp)
        start = time.monotonic()
        compiled = compiler_options.with_options(train_step).lower(state, batch).compile()
        seconds = time.monotonic() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    arrays = {match.group(): math.prod(map(int, match.group(2).split(","))) for match in ARRAY.finditer(text)}
    largest = max(arrays, key=arrays.get)
    whole = f"[{ROWS_A_DEVICE},{LENGTH},{CONFIG.width}]"  # activations of whole rows, which no device has
    keys = f"[1,{ROWS_A_DEVICE},{LENGTH // context},{CONFIG.kv_heads // tensor},{CONFIG.head_dim}]"
    gathered = models.without_head(model.shapes)["layers"]
    gathers = [one for one in hlo.Program(text, trips=1.0).collectives(len(devices)) if one.kind == "all-gather" and one.loop]
    sent = [sum(one.sent_bytes * one.times for one in gathers if one.asynchronous or waited) for waited in (False, True)]
    report = {
        "overlapped": sent[0] / sent[1],
        "reduced_elements": reduced_elements(text),
        "kernel_elements": min(x.size // CONFIG.layers for x in jax.tree.leaves(gathered) if x.ndim > 2),
        "token_elements": ROWS_A_DEVICE * LENGTH // context * CONFIG.width // tensor,  # of what a chip has of the layer's input
        "compile_s": round(seconds, 1),
        "state_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        "batch_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch)),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
        "largest_array": largest,
        "largest_elements": arrays[largest],
        "table_elements": model.config.padded_vocab * CONFIG.width,
        "whole_rows": sum(whole in line.split("all-gather(")[0] for line in text.splitlines() if " all-gather(" in line),
        "scattered_keys": sum(keys in line for line in text.splitlines() if " reduce-scatter(" in line),
        "kernels": sorted({re.sub(r".*?(\w+)_kernel.*", r"\1", line) for line in text.splitlines() if "tpu_custom_call" in line}),
        "host": sorted(set(HOST.findall(text))),
        "collectives": {kind: text.count(f" {kind}") for kind in ("all-gather", "reduce-scatter", "all-reduce")},
    }
    if len(sys.argv) > 6:
        open(sys.argv[6], "w").write(text)
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:6]))

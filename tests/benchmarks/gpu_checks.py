"""Whether the path through a GPU is right: DPO's loss and gradients there against those on the CPU of the same process.

    python -m tests.benchmarks.gpu_checks [ATTENTION ...]

The model is tiny, in float32 with matrix products at the highest precision, so that what differs is the order of sums: the difference is
|GPU - CPU| / |CPU| over all numbers of a tree. The last lines are bfloat16 against float32, and float32 at the default precision, which on
newer cards rounds the factors of a product to 10 bits: both for the record.
"""

from functools import partial
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import objectives, sharding
from jaxalign.data.rows import pack
from jaxalign.models.attention import rule
from jaxalign.models.config import ModelConfig
from jaxalign.training import forward, reference, step
from tests import toys

CONFIG = ModelConfig(
    family="llama", vocab_size=509, width=128, layers=2, heads=4, kv_heads=2, head_dim=64, mlp_width=256, max_positions=512
)  # fmt: skip
ROW_TOKENS = 256
BEGAN = time.monotonic()
LARGEST = {"xla": 1e-4}  # difference that passes; a kernel may round its products
LARGEST_OF_KERNELS = 5e-3


def measured(device, attention: str, dtype: jnp.dtype) -> tuple[float, dict]:
    """(loss, gradients) of DPO on a device, on the host."""
    import optax

    groups = toys.groups(40, 7, vocab_size=CONFIG.vocab_size)
    plan = pack.plan_rows(pack.group_tokens(groups, share_prompt=True), row_tokens=ROW_TOKENS, pack=True)
    arrays = pack.assemble(groups, plan, row_tokens=ROW_TOKENS, share_prompt=True)
    with jax.set_mesh(sharding.make_mesh(devices=[device])):
        look = partial(forward.next_token, toys.model(CONFIG), dtype=dtype, remat="none", attention=attention)
        optimizer, rest = toys.keep_gradient(), reference.RULES["frozen"]
        train_step = step.make_train_step(look, objectives.bind("dpo"), rest.bind(), optimizer, optax.constant_schedule(0.1))
        state = step.init_state(toys.place_params(params(0), CONFIG), optimizer, rule=rest, seed=0)
        state = state.replace(reference=toys.place_params(params(1), CONFIG))
        state, metrics = train_step(state, toys.place(arrays))
        return float(metrics["loss"]), jax.device_get(state.opt_state[0].trace)


def params(seed: int) -> dict:
    """Random parameters on the host, of a size at which activations neither vanish nor saturate."""
    draw, built = np.random.default_rng(seed), toys.model(CONFIG)
    return jax.tree.map(lambda shape, start: np.float32(start[0] + 0.05 * draw.standard_normal(shape.shape)), built.shapes, built.starts)


def difference(one: dict, other: dict) -> float:
    """|one - other| / |other| over all leaves."""
    pairs = list(zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    apart = sum(float(np.square(np.float64(a) - b).sum()) for a, b in pairs)
    return (apart / sum(float(np.square(np.float64(b)).sum()) for _, b in pairs)) ** 0.5


def main(names: list[str]) -> int:
    """Prints a line of JSON per comparison; the exit code is 1 where one is too far apart."""
    host, there = jax.devices("cpu")[0], jax.devices()[0]
    print(json.dumps({"device": there.device_kind, "jax": jax.__version__}), flush=True)
    with jax.default_matmul_precision("highest"):
        loss, gradients = measured(host, "xla", jnp.float32)
        print(json.dumps({"on": "cpu", "loss": loss, "seconds": round(time.monotonic() - BEGAN, 1)}), flush=True)
        bad = 0
        names = names or [name for name, one in rule.IMPLEMENTATIONS.items() if one.platform in (None, there.platform)]
        for name in names:
            bad += not _compare(name, there, loss, gradients, jnp.float32, LARGEST.get(name, LARGEST_OF_KERNELS))
    for name in names:
        _compare(name, there, loss, gradients, jnp.bfloat16, None)
    _compare("xla", there, loss, gradients, jnp.float32, None)
    return int(bad > 0)


def _compare(name, device, loss, gradients, dtype, most):
    line = {"attention": name, "dtype": jnp.dtype(dtype).name}
    began = time.monotonic()
    try:
        got, its = measured(device, name, dtype)
    except Exception as error:  # noqa: BLE001 (one back end that fails must not hide the others)
        print(json.dumps(line | {"failed": f"{type(error).__name__}: {error}"[:600]}), flush=True)
        return most is None
    apart = {"loss": abs(got - loss) / abs(loss), "gradients": difference(its, gradients)}
    passed = most is None or max(apart.values()) <= most  # NaN does not pass
    rest = {"passed": bool(passed), "largest": most, "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(line | apart | rest), flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

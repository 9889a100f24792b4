"""What is read from the trace of a step: arithmetic, collectives, what is kept; on a mesh without devices."""

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp
import pytest

from jaxalign import sharding
from jaxalign.lm_head import chunks, logps
from jaxalign.planning import program

MESH = (2, 4, 1, 1, 2)  # data, fsdp, fsdp_inner, context, tensor
SETTING = program.Setting(
    depths=frozenset({3}), vocabulary=640, mesh=dict(zip(sharding.MESH_AXES, MESH, strict=True)), slice_devices=8,
    platform="tpu", tokens=512.0,
    scored=40.0, seen=300.0,
)


def shaped(*shape, axes=(), dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.named(sharding.spec(*axes)))


def work(function, *arguments):
    return program.work_of(jax.make_jaxpr(function)(*arguments), SETTING)


def test_a_product_with_a_gathered_weight():
    with sharding.shapes_only(MESH, "tpu"):
        x, w = shaped(64, 32, axes=("rows", None)), shaped(32, 16, axes=("embed", "mlp"))

        def product(x, w):
            whole = sharding.gather(w, "embed", "mlp")
            return jax.lax.dot_general(x, whole, (((1,), (0,)), ((), ())), out_sharding=sharding.spec("rows", "mlp"))

        found = work(product, x, w)
    assert found.flops == 2 * (64 / 8) * 32 * (16 / 2)
    (gather,) = found.collectives
    assert (gather.kind, gather.axes, gather.times) == ("all-gather", ("fsdp",), 1)
    assert gather.sent_bytes == 32 * (16 / 2) * 2 * 3 / 4


@pytest.mark.parametrize("split", [True, False])
def test_a_sum_over_rows_is_scattered_where_its_result_is_split(split):
    with sharding.shapes_only(MESH, "tpu"):
        x, y = shaped(64, 32, axes=("rows", None)), shaped(64, 16, axes=("rows", None))

        def gradient(x, y):
            whole = jax.lax.dot_general(x, y, (((0,), (0,)), ((), ())), out_sharding=sharding.spec(None, None))
            return sharding.shard(whole, "embed", None) if split else whole

        (found,) = work(gradient, x, y).collectives
    assert found.kind == ("reduce-scatter" if split else "all-reduce")
    assert found.axes == ("data", "fsdp")
    assert found.network == 1 / 7  # of 8 devices in two slices
    assert found.sent_bytes == 32 * 16 * 2 * 7 / 8 * (1 if split else 2)


def test_loops_count_and_layers_keep_what_the_backward_pass_reads():
    with sharding.shapes_only(MESH, "tpu"):
        x, w = shaped(64, 32, axes=("rows", None)), shaped(3, 32, 32, axes=(None, None, None))

        def loss(w, x):
            body = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None), policy=jax.checkpoint_policies.nothing_saveable)
            return jax.lax.scan(body, x, w)[0].astype(jnp.float32).sum()

        forward, both = work(loss, w, x), work(jax.grad(loss), w, x)
    assert forward.flops == 3 * 2 * (64 / 8) * 32 * 32
    assert both.flops == 4 * forward.flops  # the forward pass again, and twice as much for the gradients
    assert both.saved_bytes == 3 * (64 / 8) * 32 * 2
    assert {one.loop for one in both.collectives} == {"layers"}


@pytest.mark.parametrize(("scored", "chunk", "trips"), [(40.0, 16, 3), (32.0, 16, 2), (5.0, 64, 1)])
def test_the_head_runs_as_often_as_there_are_scored_tokens(scored, chunk, trips):
    setting = SETTING.__class__(**{**vars(SETTING), "scored": scored})

    def loop(x, table, count):
        return jax.lax.fori_loop(0, count, lambda i, total: total + (x @ table).sum(), 0.0)

    arguments = jnp.zeros((chunk, 8)), jnp.zeros((8, 320)), jnp.int32(1)  # 640 columns over tensor 2
    assert not program.work_of(jax.make_jaxpr(loop)(*arguments), setting).head_bytes  # of attention, with the same shapes
    found = program.work_of(jax.make_jaxpr(jax.named_call(loop, name=chunks.SCOPE))(*arguments), setting)
    assert found.flops == trips * 2 * chunk * 8 * 320
    assert found.head_bytes == chunk * 320 * 4


def test_the_gradient_of_the_head_of_a_narrow_model_counts_the_tokens_and_not_the_width():
    setting = SETTING.__class__(**{**vars(SETTING), "scored": 256.0, "mesh": {}, "vocabulary": 320})
    width, table = 16, jnp.zeros((320, 16))
    tokens, scored = jnp.zeros((1, 512), jnp.int32), jnp.arange(512)[None] % 2 > 0

    def loss(hidden, table):
        return logps.token_logps(hidden, table, tokens, scored, vocab_size=320).sum()

    with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
        found = program.work_of(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(jnp.zeros((1, 512, width)), table), setting)
    assert found.flops == 4 * 2 * 256 * width * 320  # logits, again for the gradient, and twice as much for that


def test_a_kernel_counts_at_every_point_of_its_grid():
    def kernel(x, y, out):
        out[...] = x[...] @ y[...]

    def call(x, y):
        block = pl.BlockSpec((8, 16), lambda i: (i, 0))
        whole = pl.BlockSpec((16, 16), lambda i: (0, 0))
        return pl.pallas_call(
            kernel, grid=(4,), in_specs=[block, whole], out_specs=block, out_shape=jax.ShapeDtypeStruct((32, 16), jnp.float32)
        )(x, y)

    found = work(call, jnp.zeros((32, 16)), jnp.zeros((16, 16)))
    assert found.flops == found.kernel_flops == 2 * 32 * 16 * 16
    assert found.moved_bytes == 4 * (32 * 16 + 16 * 16 + 32 * 16)

"""The kernels for GPUs give the oracle's values and gradients, interpreted on a CPU, and lower to CUDA without one."""

import functools

from attention_rows import assert_close, marks_of, weights, with_gradients
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import sharding
from jaxalign.models.attention import pallas_gpu, xla
from jaxalign.models.attention.gpu_tiles import Tile, Tiles

LENGTH, HEADS, KV_HEADS, SIZE = 72, 4, 2, 24  # no whole number of blocks, and heads that are filled up
TILES = Tiles(Tile(16, 8, 4, 2), Tile(8, 16, 4, 2), Tile(16, 8, 4, 2))
FAST = {"compiler_options": {"xla_backend_optimization_level": 0}}  # it compiles in half the time, and runs once
rows = functools.partial(marks_of, places=LENGTH)
SHAPES = {
    "on the borders of blocks": rows([[(16, 16, 8), (8, 8, 16)], [(72,)]]),
    "beside the borders": rows([[(15, 17), (7, 9, 9)], [(1, 1), (71 - 8, 7)]]),
    "two to eight answers": rows([[(9, 3, 5), (6, 2, 4, 7), (5, 1, 2, 3, 4)], [(13, 5, 7, 1, 9, 4, 3, 8, 6)]]),
    "a row of padding": rows([[], [(20, 30)]]),
}


@functools.cache
def ours(softcap):
    return with_gradients(functools.partial(pallas_gpu.attend_locally, softcap=softcap, tiles=TILES, interpret=True), **FAST)


@functools.cache
def oracle(softcap):
    return with_gradients(functools.partial(xla.attend_locally, softcap=softcap), **FAST)


def assert_equal(marks, window, softcap, dtype, tolerance):
    arguments = *weights(dtype, LENGTH, HEADS, KV_HEADS, SIZE), *marks, np.int32(window)
    right = oracle(softcap)(*(x.astype(jnp.float32) for x in arguments[:4]), *arguments[4:])
    assert_close(ours(softcap)(*arguments), right, dtype, tolerance)


@pytest.mark.parametrize("window", [0, 1, 10])
@pytest.mark.parametrize("marks", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_those_of_the_oracle(marks, window):
    assert_equal(marks, window, 0.0, jnp.float32, 3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("marks", SHAPES.values(), ids=SHAPES)
def test_the_cap_of_the_scores_is_that_of_the_oracle(marks):
    assert_equal(marks, 10, 1.5, jnp.float32, 3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("marks", SHAPES.values(), ids=SHAPES)
def test_bfloat16_rounds_the_inputs_of_products_only(marks):
    assert_equal(marks, 0, 0.0, jnp.bfloat16, 2e-2)


def test_a_block_that_is_not_listed_is_not_read():
    # The second group's keys and values are not finite; the first group's blocks do not meet them, in either direction.
    q, k, v, direction = weights(jnp.float32, LENGTH, HEADS, KV_HEADS, SIZE)
    marks = rows([[(8, 8), (24, 32)], [(16,), (56,)]])
    k, v = (x.at[:, 16:].set(jnp.nan) for x in (k, v))
    attention, dq, *_ = ours(0.0)(q, k, v, direction, *marks, np.int32(0))
    assert np.isfinite(attention[:, :16]).all() and np.isfinite(dq[:, :16]).all()
    assert np.isnan(attention[:, 16:]).all()


@pytest.mark.parametrize(
    ("dtype", "size", "softcap"), [(jnp.bfloat16, 80, 0.0), pytest.param(jnp.float32, 256, 30.0, marks=pytest.mark.slow)]
)
def test_the_kernels_lower_to_cuda_without_a_gpu(dtype, size, softcap):
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
    types = (jax.sharding.AxisType.Auto,) * len(sharding.MESH_AXES)
    mesh = jax.sharding.AbstractMesh((1,) * len(sharding.MESH_AXES), sharding.MESH_AXES, axis_types=types, abstract_device=device)
    run = with_gradients(functools.partial(pallas_gpu.attend_locally, softcap=softcap), **FAST)
    heads = [jax.ShapeDtypeStruct((2, 192, heads, size), dtype) for heads in (8, 2, 2, 8)]
    marks = [jax.ShapeDtypeStruct((2, 192), jnp.int32)] * 3
    with jax.sharding.use_abstract_mesh(mesh):
        text = run.trace(*heads, *marks, jax.ShapeDtypeStruct((), jnp.int32)).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("xla.gpu.triton") == 3

"""The kernels for TPUs give the oracle's values and gradients, interpreted on a CPU."""

import functools

from attention_rows import assert_close, marks_of, weights, with_gradients
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.models.attention import pallas_tpu, xla

LENGTH, SIZE, BLOCK = 300, 24, 128  # two blocks and a part of one
rows = functools.partial(marks_of, places=LENGTH)
SHAPES = {
    "on the borders of blocks": rows([[(128, 64, 64), (44,)], [(300,)]]),
    "beside the borders": rows([[(127, 66, 64)], [(1, 1), (255, 1, 42)]]),
    "one to eight answers": rows([[(40, 30), (20, 30, 25), (30, 9, 1, 60)], [(60, 30, 1, 28, 15, 40, 33, 21, 50)]]),
    "a row of padding and a short one": rows([[], [(20, 30)]]),
}


@functools.cache
def ours(softcap):
    return with_gradients(functools.partial(pallas_tpu.attend_locally, softcap=softcap, interpret=True))


@functools.cache
def oracle(softcap):
    return with_gradients(functools.partial(xla.attend_locally, softcap=softcap))


def assert_equal(marks, window, softcap, dtype, tolerance, heads=4, kv_heads=2):
    arguments = *weights(dtype, LENGTH, heads, kv_heads, SIZE), *marks, np.int32(window)
    right = oracle(softcap)(*(x.astype(jnp.float32) for x in arguments[:4]), *arguments[4:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pallas_tpu, "BLOCK", BLOCK)
        found = ours(softcap)(*arguments)
    assert_close(found, right, dtype, tolerance)


@pytest.mark.parametrize("window", [0, 1, 100])
@pytest.mark.parametrize("marks", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_those_of_the_oracle(marks, window):
    assert_equal(marks, window, 0.0, jnp.float32, 3e-6)


@pytest.mark.parametrize("part", [(200, 100), (0, 150), (150, 150)], ids=str)
def test_the_queries_of_a_part_of_a_row_have_the_values_and_gradients_of_the_whole(part):
    first, count = part
    q, k, v, direction = weights(jnp.float32, LENGTH, 4, 2, SIZE)
    marks, here = SHAPES["one to eight answers"], slice(first, first + count)
    arguments = q[:, here], k, v, direction[:, here], *marks, np.int32(100), np.int32(first)
    whole = oracle(0.0)(q, k, v, jnp.zeros_like(direction).at[:, here].set(direction[:, here]), *marks, np.int32(100))
    right = [x[:, here] if number < 2 else x for number, x in enumerate(whole)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pallas_tpu, "BLOCK", BLOCK)
        found = ours(0.0)(*arguments)
    for implementation in (found, oracle(0.0)(*arguments)):
        assert_close(implementation, right, jnp.float32, 3e-6)


def test_ids_in_any_order_at_any_positions_are_seen_by_the_rule():
    random = np.random.default_rng(7)
    marks = [np.maximum(random.integers(low, 6, (2, LENGTH)), 0).astype(np.int32) for low in (0, -3, -3)]
    assert_equal(marks, 3, 0.0, jnp.float32, 3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("marks", SHAPES.values(), ids=SHAPES)
def test_the_cap_of_the_scores_is_that_of_the_oracle(marks):
    assert_equal(marks, 100, 1.5, jnp.float32, 3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("marks", SHAPES.values(), ids=SHAPES)
def test_bfloat16_rounds_the_inputs_of_products_only(marks):
    assert_equal(marks, 0, 0.0, jnp.bfloat16, 2e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 1)])
def test_stacks_of_heads_that_share_a_key_head_add_up(heads, kv_heads):
    q, k, *_ = weights(jnp.float32, LENGTH, heads, kv_heads, SIZE)
    assert pallas_tpu._stacks(q, k) == 2
    assert_equal(SHAPES["beside the borders"], 100, 0.0, jnp.float32, 3e-6, heads, kv_heads)


def test_what_no_query_of_a_block_sees_is_not_read():
    # The second group's keys and values are not finite; the first group's blocks do not meet them, in either direction.
    q, k, v, direction = weights(jnp.float32, LENGTH, 4, 2, SIZE)
    marks = rows([[(60, 68), (128, 44)], [(128,), (172,)]])
    k, v = (x.at[:, BLOCK:].set(jnp.nan) for x in (k, v))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pallas_tpu, "BLOCK", BLOCK)
        attention, dq, *_ = ours(0.0)(q, k, v, direction, *marks, np.int32(0))
    assert np.isfinite(attention[:, :BLOCK]).all() and np.isfinite(dq[:, :BLOCK]).all()
    assert np.isnan(attention[:, BLOCK:]).all()


def test_every_pair_of_blocks_that_meets_is_listed_once_and_every_block_is_written():
    random = np.random.default_rng(3)
    meets = np.tril(random.random((3, 5, 5)) < 0.4) | np.eye(5, dtype=bool)
    for matrix in (meets, meets.swapaxes(1, 2)):
        pairs = jax.jit(pallas_tpu._listed)(matrix)
        row, outer, inner = np.nonzero(matrix)
        count = int(pairs.count)
        assert count == len(row)
        assert pairs.outer[:count].tolist() == (5 * row + outer).tolist()
        assert pairs.inner[:count].tolist() == (5 * row + inner).tolist()
        assert pairs.outer[count:].tolist() == [-1] * (3 * 15 + 1 - count)

"""What must change nothing: every file in objectives/, through the real train step, against the invariants that packing and meshes promise.

An objective is picked up by its file. Policy and reference have different random weights; groups are uneven, some are filler.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest
import toys

from jaxalign.data import pack

MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]
COUNT, ROW_TOKENS, GROUPS = 12, 64, 2
PLAN = np.array([[0, 1], [2, -1], [3, 4], [-1, 5], [6, 7], [8, 9], [-1, -1], [10, 11]], np.int32)  # 8 rows
WIDE_ROWS, WIDE_TOKENS, WIDE_GROUPS = 16, 96, 3  # one shape that every other layout of the same groups fits: one compile for all


class Result(NamedTuple):
    metrics: dict
    gradient: dict
    trainable: dict


@functools.cache
def compiled(name, microbatches):
    return toys.make_step(name, microbatches=microbatches)


@functools.cache
def text():
    return toys.groups(COUNT, seed=3)


def run(name, arrays, *, mesh=(1, 1, 1), microbatches=1):
    with jax.set_mesh(toys.mesh(mesh)):
        state, metrics = compiled(name, microbatches)(toys.make_state(name), toys.place(arrays))
        return Result(*jax.device_get((metrics, state.opt_state[0].trace, state.trainable)))


def base():
    return pack.assemble(text(), PLAN, row_tokens=ROW_TOKENS, share_prompt=True)


@functools.cache
def expected(name):
    return run(name, base())


def wide(plan, *, share_prompt=True):
    """The groups in another layout: [WIDE_ROWS, WIDE_TOKENS] with WIDE_GROUPS groups a row, filled up with padding."""
    whole = np.full((WIDE_ROWS, WIDE_GROUPS), -1, np.int32)
    whole[: plan.shape[0], : plan.shape[1]] = plan
    return pack.assemble(text(), whole, row_tokens=WIDE_TOKENS, share_prompt=share_prompt)


def assert_same(ours, theirs):
    assert ours.metrics.keys() == theirs.metrics.keys()
    for name, value in theirs.metrics.items():
        np.testing.assert_allclose(ours.metrics[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    for part in ("gradient", "trainable"):
        for (path, leaf), other in zip(
            jax.tree_util.tree_leaves_with_path(getattr(theirs, part)), jax.tree.leaves(getattr(ours, part)), strict=True
        ):
            where = part + jax.tree_util.keystr(path)
            np.testing.assert_allclose(other, leaf, rtol=1e-5, atol=1e-5 * np.abs(leaf).max(), err_msg=where)


objectives = pytest.mark.parametrize("name", toys.OBJECTIVES)


@objectives
def test_the_case_is_not_trivial(name):
    metrics, gradient, _ = expected(name)
    assert all(np.isfinite(value) for value in metrics.values())
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(gradient))
    assert len({int(n) for n in (base()["slots"] >= 0).sum(1)}) > 4  # rows carry unequal numbers of scored tokens


@objectives
def test_padding_rows_and_padding_tokens_do_not_change_the_step(name):
    assert_same(run(name, wide(PLAN)), expected(name))


@objectives
def test_the_order_of_rows_does_not_change_the_step(name):
    order = np.random.default_rng(0).permutation(len(PLAN))
    arrays = pack.assemble(text(), PLAN[order], row_tokens=ROW_TOKENS, share_prompt=True)
    assert_same(run(name, arrays), expected(name))


@objectives
def test_the_order_of_groups_in_a_row_does_not_change_the_step(name):
    arrays = pack.assemble(text(), PLAN[:, ::-1], row_tokens=ROW_TOKENS, share_prompt=True)
    assert_same(run(name, arrays), expected(name))


@objectives
def test_packed_rows_equal_one_group_a_row(name):
    assert_same(run(name, wide(np.arange(COUNT, dtype=np.int32)[:, None])), expected(name))


@objectives
def test_three_groups_a_row_equal_two(name):
    assert_same(run(name, wide(np.arange(COUNT, dtype=np.int32).reshape(-1, 3))), expected(name))


@objectives
def test_a_shared_prompt_equals_a_repeated_one(name):
    assert_same(run(name, wide(PLAN, share_prompt=False)), expected(name))


@objectives
def test_what_padding_and_filler_hold_does_not_change_the_step(name):
    draw, arrays = np.random.default_rng(1), base()
    padding = arrays["segments"] == 0
    arrays["tokens"] = np.where(padding, draw.integers(0, toys.CONFIG.vocab_size, padding.shape), arrays["tokens"]).astype(np.int32)
    arrays["positions"] = np.where(padding, 7, arrays["positions"]).astype(np.int32)
    arrays["reward"] = np.where(arrays["valid"], arrays["reward"], 9.0).astype(np.float32)
    assert_same(run(name, arrays), expected(name))


@objectives
@pytest.mark.parametrize("microbatches", [2, 4, 8])
def test_microbatches_equal_one_batch(name, microbatches):
    assert_same(run(name, base(), microbatches=microbatches), expected(name))


@objectives
@pytest.mark.parametrize("mesh", MESHES[1:], ids=str)
def test_meshes_agree(name, mesh):
    assert_same(run(name, base(), mesh=mesh), expected(name))


@objectives
def test_microbatches_on_a_mesh_equal_one_batch_on_one_device(name):
    assert_same(run(name, wide(PLAN), mesh=(2, 2, 2), microbatches=2), expected(name))

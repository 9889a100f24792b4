"""What must change nothing: every file in objectives/, through the real train step, against the invariants that packing and meshes promise.

An objective is picked up by its file. Policy and reference have different random weights; groups are uneven, some are filler, some are
pairs and some judged one by one, and all have a response of another prompt. Every objective looks at the batch with the model of light.py;
those of DECODED look at it with the real decoder too. Every objective is tried on a mesh of all axes with microbatches; split tokens are
for one that looks twice and one with statistics, and microbatches on one device for two that read statistics of the whole batch. An
objective of each family is among the quick tests; the rest carries the marker slow. SWEEP=1 tries all of them on all further meshes.
"""

import functools
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import light
import numpy as np
import optax
import pytest
import toys

from jaxalign import objectives
from jaxalign.data.rows import pack
from jaxalign.training import reference, step

DECODED = ("dpo",)  # IFT and the heads have tests of their own with it
QUICK = ("alol_kl", "dpo", "ift", "kto", "ppo", "reward", "una")  # one of each family
COUNT, ROW_TOKENS = 12, 80
PLAN = np.array([[0, 1], [2, -1], [3, 4], [-1, 5], [6, 7], [8, 9], [-1, -1], [10, 11]], np.int32)  # 8 rows
WIDE_ROWS, WIDE_TOKENS, WIDE_GROUPS = 16, 144, 3  # one shape that every other layout of the same groups fits: one compile for most


class Result(NamedTuple):
    metrics: dict
    gradient: dict
    trainable: dict


class Case(NamedTuple):
    """An objective, the model that it looks with, and hyper-parameters beside the defaults."""

    name: str
    decoder: bool = False
    lora: bool = False  # the decoder rests, and its adapters are trained
    hparams: tuple = ()  # (name, value)

    def __str__(self):
        kinds = [kind for kind in ("decoder", "lora") if getattr(self, kind)]
        return "-".join([self.name, *(str(value) for _, value in self.hparams), *kinds])

    @property
    def bound(self):
        return objectives.bind(self.name, **dict(self.hparams))

    @property
    def reads(self):
        return self.bound.reads


@functools.cache
def compiled(case, microbatches):
    kind = case.bound.forward
    look = toys.looks(kind, lora=case.lora) if case.decoder else light.FORWARDS[kind]
    rule = reference.RULES["frozen" if "reference" in case.reads else "none"].bind()
    return step.make_train_step(look, case.bound, rule, toys.keep_gradient(), optax.constant_schedule(0.1), microbatches=microbatches)


def start(case):
    """The state before the step: policy and reference differ, and where only a head or adapters are trained the rest is frozen."""
    draw = functools.partial(toys.headed_params, lora=case.lora) if case.decoder else light.params
    trained = next(((head,) for head in ("value_head", "reward_head") if f"{head}_alone" in case.reads), None)
    trained = (toys.models.LORA, *toys.models.HEADS) if case.lora else trained
    state = step.init_state(
        draw(0),
        toys.keep_gradient(),
        rule=reference.RULES["frozen" if "reference" in case.reads else "none"],
        seed=0,
        trained=trained,
        statistics=case.bound.statistics_names,
    )
    return state if state.reference is None else state.replace(reference={key: draw(1)[key] for key in state.reference})


@functools.cache
def text():
    return toys.groups(COUNT, seed=3)


@functools.cache
def started(case, mesh):
    """`start` on the mesh in scope, once for all layouts of the batch; a step consumes its state, so each takes a copy."""
    return start(case)


def run(case, arrays, *, mesh=(1, 1, 1), microbatches=1):
    with jax.set_mesh(toys.mesh(mesh)):
        state, metrics = compiled(case, microbatches)(jax.tree.map(jnp.copy, started(case, mesh)), toys.place(arrays))
        return Result(*jax.device_get((metrics, state.opt_state[0].trace, state.trainable)))


@functools.cache
def expected(case):
    return run(case, wide(PLAN))


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


CASES = [
    *[Case(name) for name in toys.OBJECTIVES],
    *[Case(name, decoder=True, lora=lora) for name in DECODED for lora in (False, True)],
    *[Case("una", hparams=(("offset", offset),)) for offset in ("ema", "kl_batch", "value_head")],
    Case("goal_reward", hparams=(("reduction", "log_of_batch_mean"),)),
]


def is_quick(case: Case) -> bool:
    return case.name in QUICK and not case.hparams and not case.decoder


PARAMS = [pytest.param(case, marks=() if is_quick(case) else pytest.mark.slow) for case in CASES]
STATISTICS = ("kto", "una-ema")  # of this batch, and of those before it too; all are tried with microbatches on a mesh
SPLIT_TOKENS = (1, 2, 2, 2)  # data, fsdp, tensor, context
SPLIT = ("ift", "kto")  # that look twice or read statistics; losses of all families, with whole decoders, in test_split_tokens
SHAPES = (((1, 1, 1), 8), ((1, 8, 1), 1), ((1, 1, 8), 1), (SPLIT_TOKENS, 2))
PLACED = [  # how a mesh of one axis lays weights out is the decoder's
    (case, *shape)
    for case in CASES
    for shape, tried in zip(SHAPES, (str(case) in STATISTICS, case.lora, case.decoder and not case.lora, str(case) in SPLIT), strict=True)
    if tried or os.environ.get("SWEEP")
]


@pytest.fixture(scope="module", params=PARAMS, ids=str)
def case(request):
    """One objective after the other, and its programs are let go: those of all would use up the process's memory maps."""
    yield request.param
    compiled.cache_clear()
    expected.cache_clear()
    started.cache_clear()
    jax.clear_caches()


def test_the_case_is_not_trivial(case):
    metrics, gradient, _ = expected(case)
    assert all(np.isfinite(value) for value in metrics.values())
    reached = {key for key, part in gradient.items() if any(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(part))}
    unread = {name for name in ("value_head", "reward_head", "critic") if name not in case.reads} | (
        {"head"} if "no_logps" in case.reads else set()
    )
    assert reached == gradient.keys() - unread
    assert len({int(n) for n in (wide(PLAN)["slots"] >= 0).sum(1)}) > 4  # rows carry unequal numbers of scored tokens


def test_the_order_of_rows_does_not_change_the_step(case):
    order = np.random.default_rng(0).permutation(len(PLAN))
    assert_same(run(case, wide(PLAN[order])), expected(case))


def test_the_order_of_groups_in_a_row_does_not_change_the_step(case):
    assert_same(run(case, wide(PLAN[:, ::-1])), expected(case))


def test_packed_rows_equal_one_group_a_row(case):
    assert_same(run(case, wide(np.arange(COUNT, dtype=np.int32)[:, None])), expected(case))


def test_three_groups_a_row_equal_two(case):
    assert_same(run(case, wide(np.arange(COUNT, dtype=np.int32).reshape(-1, 3))), expected(case))


def test_a_shared_prompt_equals_a_repeated_one(case):
    assert_same(run(case, wide(PLAN, share_prompt=False)), expected(case))


def test_what_padding_and_filler_hold_does_not_change_the_step(case):
    draw, arrays = np.random.default_rng(1), wide(PLAN)
    padding = arrays["segments"] == 0
    arrays["tokens"] = np.where(padding, draw.integers(0, toys.CONFIG.vocab_size, padding.shape), arrays["tokens"]).astype(np.int32)
    arrays["positions"] = np.where(padding, 7, arrays["positions"]).astype(np.int32)
    arrays["reward"] = np.where(arrays["valid"], arrays["reward"], 9.0).astype(np.float32)
    for name in toys.COLUMNS:
        arrays["columns"][name] = np.where(arrays["valid"], arrays["columns"][name], 9.0).astype(np.float32)
    for name in toys.TOKEN_COLUMNS:
        arrays["columns"][name] = np.where(arrays["slots"] >= 0, arrays["columns"][name], 9.0).astype(np.float32)
    assert_same(run(case, arrays), expected(case))


@pytest.mark.slow
@pytest.mark.parametrize(("case", "mesh", "microbatches"), PLACED, indirect=["case"], ids=str)
def test_further_meshes_and_microbatches_agree(case, mesh, microbatches):
    assert_same(run(case, wide(PLAN), mesh=mesh, microbatches=microbatches), expected(case))


def test_microbatches_on_a_mesh_without_rows_and_tokens_of_padding_equal_one_batch_on_one_device(case):
    arrays = pack.assemble(text(), PLAN, row_tokens=ROW_TOKENS, share_prompt=True)
    assert_same(run(case, arrays, mesh=(2, 2, 2), microbatches=2), expected(case))

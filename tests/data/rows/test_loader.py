"""A batch is a pure function of (seed, step), the same on any number of hosts; eval goes once through everything."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from orders import row_order
import pytest
from tiny_data import random_groups

from jaxalign import sharding
from jaxalign.data.rows import loader, mismatch, pack, store
from jaxalign.types import Batch

T = 64


def prepared(n=60, *, responses=2, seed=0, row_tokens=T, name="set", tokenizer="t"):
    groups = random_groups(n, responses=responses, seed=seed)
    plan = pack.plan_rows(pack.group_tokens(groups, share_prompt=True), row_tokens=row_tokens, pack=True)
    meta = {"row_tokens": row_tokens, "share_prompt": True, "tokenizer": tokenizer}
    return store.Prepared(Path(f"{name}/rows"), meta, groups, plan, np.arange(n))


def mismatched(**options):
    one = prepared(**options)
    donors = mismatch.choose(one.groups, row_tokens=T, share_prompt=True, seed=0)
    return dataclasses.replace(one, groups=dataclasses.replace(one.groups, donors=donors))


def equal(first, second):
    return jax.tree.structure(first) == jax.tree.structure(second) and all(jax.tree.leaves(jax.tree.map(np.array_equal, first, second)))


def joined(parts):
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


@pytest.mark.parametrize("hosts", [2, 4])
def test_any_number_of_hosts_reads_the_same_global_batch(hosts):
    sets = [prepared(), dataclasses.replace(prepared(80, seed=1), weight=2.0)]
    alone = loader.batches(sets, rows=8, seed=3, steps=20)
    parts = [loader.batches(sets, rows=8, seed=3, steps=20, process_index=h, process_count=hosts) for h in range(hosts)]
    for step in (0, 7, 19):
        assert equal(joined([part[step] for part in parts]), alone[step])


def test_a_restart_at_a_step_gives_what_an_uninterrupted_run_gives():
    def fresh():
        return loader.batches([prepared()], rows=4, seed=3, steps=30)

    uninterrupted = list(loader.iterate(fresh()))
    restarted = list(loader.iterate(fresh(), 17))
    assert len(uninterrupted) == 30 and len(restarted) == 13
    assert all(equal(a, b) for a, b in zip(uninterrupted[17:], restarted, strict=True))


def test_each_epoch_is_another_permutation_of_all_rows():
    one = prepared()
    rows = len(one)
    order = [row for step in row_order([one], rows=1, seed=5, steps=3 * rows) for _, row in step]
    epochs = [order[i * rows : (i + 1) * rows] for i in range(3)]
    whole = [tuple(row) for row in one.plan.tolist()]
    assert all(sorted(epoch) == sorted(whole) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != whole


def test_another_seed_gives_another_order():
    one = [prepared()]
    assert row_order(one, rows=4, seed=0, steps=5) != row_order(one, rows=4, seed=1, steps=5)


def test_sets_are_mixed_in_proportion_to_their_weights():
    sets = [prepared(), dataclasses.replace(prepared(seed=1), weight=3.0)]
    picks = [number for step in row_order(sets, rows=4, seed=0, steps=100) for number, _ in step]
    assert picks.count(1) == 300


def test_the_sets_of_a_mixture_are_shuffled_each_in_its_own_order():
    twins = [prepared(), prepared()]
    rows = [row for step in row_order(twins, rows=2, seed=0, steps=len(twins[0])) for row in step]
    first, second = ([members for number, members in rows if number == which] for which in (0, 1))
    assert sorted(first) == sorted(second) == sorted(tuple(row) for row in twins[0].plan.tolist()) and first != second


def test_sets_of_different_widths_are_mixed_into_batches_of_one_shape():
    sets = [prepared(responses=1), prepared(responses=4, seed=1)]
    batches = loader.batches(sets, rows=6, seed=0, steps=4)
    shapes = jax.tree.map(np.shape, batches[0])
    width = max(one.plan.shape[1] for one in sets)
    assert shapes["valid"] == (6 * width, 4) and shapes["tokens"] == (6, T)
    assert all(jax.tree.map(np.shape, batches[step]) == shapes for step in range(4))


def test_eval_goes_once_through_every_group_and_fills_up_with_invalid_rows():
    one = prepared()
    batches = list(loader.iterate(loader.eval_batches(one, rows=7)))
    assert len(batches) == -(-len(one) // 7) and len(one) % 7
    assert sum(int(batch["valid"].any(1).sum()) for batch in batches) == len(one.groups)
    filler = batches[-1]["tokens"].shape[0] - len(one) % 7
    assert filler > 0 and not batches[-1]["segments"][-filler:].any()
    parts = [loader.eval_batches(one, rows=8, process_index=h, process_count=2) for h in range(2)]
    whole = loader.eval_batches(one, rows=8)
    last = len(whole) - 1
    assert equal(joined([part[last] for part in parts]), whole[last])


def test_counts_are_of_what_is_not_padding():
    one = prepared()
    batch = loader.eval_batches(one, rows=len(one))[0]
    sizes = pack.group_tokens(one.groups, share_prompt=True)
    assert loader.counts(batch) == {
        "tokens": sizes.sum(),
        "scored_tokens": int(np.count_nonzero(one.groups.scored)),
        "groups": len(one.groups),
    }


def test_an_epoch_has_as_many_steps_as_its_rows_need():
    one = prepared()
    assert loader.steps_per_epoch([one], rows=len(one) - 1) == 2
    assert loader.groups_per_row([one]) == pytest.approx(len(one.groups) / len(one))


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_a_batch_on_devices_is_split_by_rows_and_holds_the_same_numbers(shape):
    one = prepared()
    one = one.with_columns({"margin": one.groups.reward + 1, "logps": -np.arange(len(one.groups.tokens), dtype=np.float32)})
    arrays = loader.batches([one], rows=8, seed=0, steps=1)[0]
    with jax.set_mesh(sharding.make_mesh(*shape)):
        batch, first = loader.to_device(arrays), sharding.spec("rows")[0]
    assert isinstance(batch, Batch) and arrays["columns"]["margin"].any() and arrays["columns"]["logps"].any()
    columns = arrays.pop("columns")
    pairs = [(getattr(batch, name), array) for name, array in arrays.items()]
    pairs += [(batch.columns[name], array) for name, array in columns.items()]
    for on_device, array in pairs:
        np.testing.assert_array_equal(on_device, array)
        assert on_device.sharding.spec[0] == first
        assert on_device.addressable_shards[0].data.shape[0] == array.shape[0] // (shape[0] * shape[1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: loader.batches([prepared()], rows=6, seed=0, steps=1), "batch.rows=6.*data=2 x fsdp=4 = 8 devices; use a multiple of 8"),
        (lambda: loader.batches([prepared()], rows=16, seed=0, steps=1, process_count=3), "batch.rows=16 does not split over .*3 hosts"),
        (lambda: loader.batches([prepared()], rows=800, seed=0, steps=1), "fewer than one batch of 800.*smaller batch"),
        (lambda: loader.batches([], rows=8, seed=0, steps=1), "no prepared set"),
        (
            lambda: loader.batches([prepared(), prepared(name="b", row_tokens=80)], rows=8, seed=0, steps=1),
            "row_tokens 80 and .* has 64",
        ),
        (
            lambda: loader.batches([prepared(), prepared(name="b", tokenizer="u")], rows=8, seed=0, steps=1),
            "tokenizer u and .* has t",
        ),
        (
            lambda: loader.batches([prepared().with_columns({"margin": np.zeros((60, 2), np.float32)}), prepared(name="b")],
                                   rows=8, seed=0, steps=1),
            r"b has the columns \(\) and set has \('margin',\).*every source the same keep_columns",
        ),
        (
            lambda: loader.batches([prepared(), mismatched(name="b")], rows=8, seed=0, steps=1),
            r"b has the columns \('mismatched',\) and set has \(\)",
        ),
    ],
)
def test_batches_that_cannot_be_are_refused_with_the_way_out(make, words):
    with jax.set_mesh(sharding.make_mesh(2, 4)), pytest.raises(ValueError, match=words):
        make()

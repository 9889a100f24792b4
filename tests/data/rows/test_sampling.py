"""Groups with a positive column are kept or drawn in proportion to it: seeded, resumable, the same on every host."""

from collections import Counter
import dataclasses
from pathlib import Path

import jax
import numpy as np
from orders import row_order
import pytest
from tiny_data import make_groups, random_groups

from jaxalign.data.rows import loader, mismatch, pack, sampling, store
from jaxalign.data.rows.sampling import Sampling

T = 64
PRIORITY, POSITIVE = Sampling("priority"), Sampling("positive")


def prepared(advantage, *, seed=0, name="set", responses=1, max_groups=None, donors=False):
    advantage = np.asarray(advantage, np.float32)
    groups = random_groups(len(advantage), responses=responses, seed=seed)
    if donors:
        groups = dataclasses.replace(groups, donors=mismatch.choose(groups, row_tokens=T, share_prompt=True, seed=0))
    plan = pack.plan_rows(pack.group_tokens(groups, share_prompt=True), row_tokens=T, pack=True, max_groups=max_groups)
    meta = {"row_tokens": T, "share_prompt": True, "tokenizer": "t"}
    one = store.Prepared(Path(f"{name}/rows"), meta, groups, plan, np.arange(len(advantage)))
    return one.with_columns({"advantage": advantage.reshape(groups.reward.shape)})


def mixed_signs(n=60, *, seed=0, **options):
    return prepared(np.random.default_rng(seed).normal(size=n * options.get("responses", 1)).reshape(n, -1), seed=seed, **options)


def groups_of(order):
    return [group for step in order for _, members in step for group in members if group >= 0]


def epoch(rows, number):
    """The rows of an epoch, as tuples of groups."""
    plan = rows._epoch(number)
    return [tuple(row) for row in plan.tolist()]


def test_uniform_numbers_draw_by_inverse_cdf_of_the_positive_part():
    # advantages of probability 0.5, 0, 0.25, 0, 0.25: the cdf of what is kept is 0.5, 0.75, 1
    one = prepared([[0.25], [-0.2], [0.125], [0.0], [0.125]])
    found = sampling.weights(one, "advantage")
    np.testing.assert_allclose(found / found.sum(), [0.5, 0, 0.25, 0, 0.25])
    assert sampling.draw(found, np.array([0.0, 0.49, 0.5, 0.74, 0.75, 0.99])).tolist() == [0, 0, 2, 2, 4, 4]
    assert sampling.draw(found, np.nextafter(1.0, 0.0)) == 4
    assert sampling.Rows(one, PRIORITY, seed=0).groups == 3  # of 5: a budget of epochs shrinks to 0.6


def test_a_group_weighs_the_positive_part_of_its_valid_responses():
    groups = make_groups([3, 3, 3], [[2, 2], [2], [2, 2]])
    plan = np.arange(3, dtype=np.int32)[:, None]
    one = store.Prepared(Path("set/rows"), {"row_tokens": T, "share_prompt": True, "tokenizer": "t"}, groups, plan, np.arange(3))
    one = one.with_columns({"advantage": np.array([[1, -5], [2, np.nan], [0.5, 0.25]], np.float32)})
    assert sampling.weights(one, "advantage").tolist() == [1.0, 2.0, 0.75]
    assert sampling.weights(one, "reward").tolist() == groups.reward.sum(1).tolist()


def test_positive_takes_every_kept_group_once_an_epoch_in_another_order_each():
    one = mixed_signs()
    kept = np.flatnonzero((one.groups.columns["advantage"] > 0).any(1)).tolist()
    rows = sampling.Rows(one, POSITIVE, seed=1)
    epochs = [epoch(rows, number) for number in range(3)]
    for each in epochs:
        assert sorted(g for row in each for g in row if g >= 0) == kept
    assert epochs[0] != epochs[1] != epochs[2]
    assert {frozenset(row) for row in epochs[0]} != {frozenset(row) for row in epochs[1]}  # packed anew


def test_priority_draws_in_proportion_to_the_advantage_as_often_as_groups_are_kept():
    advantage = np.array([[4.0], [-1.0], [2.0], [1.0], [0.0], [1.0]] * 5)
    rows = sampling.Rows(prepared(advantage), PRIORITY, seed=0)
    counts = Counter()
    for number in range(400):
        drawn = [g for row in epoch(rows, number) for g in row if g >= 0]
        assert len(drawn) == rows.groups == 20
        counts.update(drawn)
    total = sum(counts.values())
    weights = np.maximum(advantage[:, 0], 0) / np.maximum(advantage, 0).sum()
    assert all(abs(counts[g] / total - weights[g]) < 0.01 for g in range(30))
    assert not any(counts[g] for g in range(30) if weights[g] == 0)


def test_no_row_overflows_and_none_holds_more_groups_than_the_sets_plan():
    one = mixed_signs(80, responses=2, max_groups=3)
    sizes = pack.group_tokens(one.groups, share_prompt=True)
    rows = sampling.Rows(one, PRIORITY, seed=0)
    for row in epoch(rows, 0) + epoch(rows, 1):
        assert len(row) == 3 and sizes[[g for g in row if g >= 0]].sum() <= T


def test_unpacked_rows_stay_unpacked():
    one = mixed_signs(max_groups=1)
    assert all(len(row) == 1 and row[0] >= 0 for row in epoch(sampling.Rows(one, POSITIVE, seed=0), 0))


@pytest.mark.parametrize("kind", [PRIORITY, POSITIVE])
def test_a_row_is_a_function_of_the_seed_and_its_position(kind):
    one = mixed_signs()
    forward, backward, other = (sampling.Rows(one, kind, seed=seed) for seed in (3, 3, 4))
    positions = list(range(100))
    there = [forward[i].tolist() for i in positions]
    back = [backward[i].tolist() for i in reversed(positions)][::-1]
    assert there == back and there != [other[i].tolist() for i in positions]


@pytest.mark.parametrize("kind", [PRIORITY, POSITIVE])
@pytest.mark.parametrize("hosts", [1, 2])
def test_a_restart_and_any_number_of_hosts_give_the_same_global_batches(kind, hosts):
    def dataset(host=0, count=1):
        sets = [mixed_signs(donors=True), dataclasses.replace(mixed_signs(80, seed=1, donors=True), weight=2.0)]
        return loader.batches(sets, rows=4, seed=3, steps=30, sampling=kind, process_index=host, process_count=count)

    whole = list(loader.iterate(dataset()))
    parts = [list(loader.iterate(dataset(host, hosts), 17)) for host in range(hosts)]
    assert len(whole) == 30 and whole[0]["columns"].keys() == {"advantage", "mismatched"}
    for step, pieces in zip(range(17, 30), zip(*parts, strict=True), strict=True):
        joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *pieces)
        jax.tree.map(np.testing.assert_array_equal, joined, whole[step])


def test_all_responses_of_a_drawn_group_are_in_the_batch():
    one = prepared([[1.0, -1.0]] * 10 + [[-1.0, -1.0]] * 30, responses=2)
    batch = loader.batches([one], rows=2, seed=0, steps=1, sampling=POSITIVE)[0]
    filled = batch["valid"].any(1)
    assert batch["valid"][filled].all() and (batch["columns"]["advantage"][filled] == [1.0, -1.0]).all()


def test_sets_are_mixed_by_weight_and_only_by_what_is_kept():
    sets = [mixed_signs(), dataclasses.replace(mixed_signs(80, seed=1), weight=3.0)]
    order = row_order(sets, rows=4, seed=0, steps=50, sampling=PRIORITY)
    assert [number for step in order for number, _ in step].count(1) == 150
    for number, members in (row for step in order for row in step):
        assert all(sets[number].groups.columns["advantage"][g].max() > 0 for g in members if g >= 0)


def test_an_epoch_is_as_short_as_what_is_kept():
    one = prepared([[1.0]] * 30 + [[-1.0]] * 30)
    rows = sampling.Rows(one, POSITIVE, seed=0).rows
    assert rows < len(one) and loader.steps_per_epoch([one], rows=2, sampling=POSITIVE) == -(-rows // 2)
    assert loader.groups_per_row([one], sampling=POSITIVE) == pytest.approx(30 / rows)
    assert len(groups_of(row_order([one], rows=1, seed=0, steps=rows, sampling=POSITIVE))) == 30


@pytest.mark.parametrize(
    ("advantage", "kind", "rows", "words"),
    [
        (np.ones((8, 1)), Sampling("priority", "gain"), 1, r"'gain' and set has \('reward', 'advantage'\).*data.computed.*keep_columns"),
        (-np.ones((8, 1)), PRIORITY, 1, "no group of set has a response with 'advantage' above 0"),
        (np.full((8, 1), np.inf), POSITIVE, 1, "column 'advantage' of set is not finite in group 0"),
        ([[1.0]] * 2 + [[-1.0]] * 60, POSITIVE, 4, "set has 2 groups with 'advantage' above 0 in 1 rows, fewer than one batch of 4"),
    ],
)
def test_sampling_that_cannot_be_is_refused_with_the_way_out(advantage, kind, rows, words):
    with pytest.raises(ValueError, match=words):
        loader.batches([prepared(advantage)], rows=rows, seed=0, steps=1, sampling=kind)


def test_a_column_of_tokens_is_no_column_to_draw_by():
    one = mixed_signs()
    one = one.with_columns({"logps": np.zeros(len(one.groups.tokens), np.float32)})
    with pytest.raises(ValueError, match="goes by the column 'logps'"):
        sampling.weights(one, "logps")

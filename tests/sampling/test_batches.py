"""Prompts in packed rows: every prompt once, whole, in few rows."""

import numpy as np
import pytest

from jaxalign.sampling import batches

RANDOM = np.random.default_rng(0)


def prompts_of(count, longest):
    return [tuple(RANDOM.integers(1, 90, n).tolist()) for n in RANDOM.integers(1, longest, count)]


@pytest.mark.parametrize(("count", "longest", "shards"), [(1, 2, 1), (5, 40, 4), (300, 150, 1), (300, 150, 4), (40, 900, 1)])
def test_every_prompt_stands_in_one_place_without_its_last_token(count, longest, shards):
    prompts = prompts_of(count, longest)
    plan = batches.plan(prompts, shards=shards)
    assert [place.ids for batch in plan.batches for place in batch] == prompts
    assert plan.rows % shards == 0 and plan.prompt_tokens >= max(map(len, prompts)) - 1
    for batch in plan.batches:
        tokens, positions, segments = plan.arrays(batch)
        assert tokens.shape == (plan.rows, plan.row_tokens)
        assert (segments > 0).sum() == sum(place.cached for place in batch)  # no two overlap
        for place in batch:
            span = place.row, slice(place.start, place.start + place.cached)
            assert tuple(tokens[span]) == place.ids[:-1] and len(set(segments[span])) <= 1
            np.testing.assert_array_equal(positions[span], np.arange(place.cached))


def test_batches_are_filled():
    prompts = prompts_of(400, 150)
    plan = batches.plan(prompts, shards=1)
    assert sum(len(ids) - 1 for ids in prompts) > 0.85 * len(plan.batches) * plan.rows * plan.row_tokens


def test_samples_begin_at_the_first_that_is_missing():
    owners = {(1,): [0], (2,): [1, 3], (3,): [2]}
    done = {(0, 0), (0, 1), (1, 0), (1, 1), (3, 0), (2, 1)}
    assert batches.first_missing(owners, 2, done) == {(1,): 2, (2,): 1, (3,): 0}

"""Columns of a set come out of its batches beside the responses and tokens that they belong to."""

import dataclasses

import numpy as np
import pytest
from tiny_data import random_groups

from jaxalign.data.rows import mismatch, pack

T = 128


def columns_of(groups):
    draw = np.random.default_rng(0)
    return {
        "margin": draw.normal(size=groups.reward.shape).astype(np.float32),
        "logps": -np.arange(1, len(groups.tokens) + 1, dtype=np.float32),
    }


def donated(groups):
    donors = mismatch.choose(groups, row_tokens=T, share_prompt=True, seed=0)
    return donors, -1000 - np.arange(donors[:, 2].sum(), dtype=np.float32)


@pytest.mark.parametrize("responses", [1, 2, 4])
@pytest.mark.parametrize("share_prompt", [True, False])
def test_every_number_stands_at_its_response_or_token(responses, share_prompt):
    groups = random_groups(responses=responses)
    groups = dataclasses.replace(groups, columns=columns_of(groups))
    plan = pack.plan_rows(pack.group_tokens(groups, share_prompt=share_prompt), row_tokens=T, pack=True)
    arrays = pack.assemble(groups, plan, row_tokens=T, share_prompt=share_prompt)
    margin, logps = arrays["columns"]["margin"], arrays["columns"]["logps"]
    assert margin.dtype == logps.dtype == np.float32 and logps.shape == arrays["tokens"].shape
    expected = np.zeros_like(margin)
    filled = plan.ravel() >= 0
    members = plan.ravel()[filled]
    expected[filled] = np.where(groups.valid, groups.columns["margin"], 0)[members]
    np.testing.assert_array_equal(margin, expected)
    # every token of these groups is another number, counted from 1, and so are the column's numbers
    scored = arrays["slots"] >= 0
    np.testing.assert_array_equal(logps[scored], -arrays["tokens"][scored])
    assert not logps[arrays["segments"] == 0].any()


def test_donors_have_numbers_of_their_own():
    groups = random_groups(20)
    donors, numbers = donated(groups)
    columns = {**columns_of(groups), "logps@mismatched": numbers}
    groups = dataclasses.replace(groups, donors=donors, columns=columns)
    arrays = pack.assemble(groups, np.arange(20)[:, None], row_tokens=T, share_prompt=True)
    assert set(arrays["columns"]) == {"margin", "logps", "mismatched"}
    assert (arrays["columns"]["margin"][:, 2] == 0).all()
    stops = donors[:, 2].cumsum()
    for g in range(20):
        _, scored = groups.piece(g, 3)
        at = arrays["slots"][g] == 2
        np.testing.assert_array_equal(arrays["columns"]["logps"][g, at], numbers[stops[g] - donors[g, 2] : stops[g]][scored == 1])
        own = (arrays["slots"][g] >= 0) & ~at
        np.testing.assert_array_equal(arrays["columns"]["logps"][g, own], -arrays["tokens"][g, own])


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("margin", (60, 3), r"column 'margin' has shape \(60, 3\); it needs the shape \(60, 2\) or"),
        ("logps", (5,), r"column 'logps' has shape \(5,\)"),
        ("logps@mismatched", (5,), r"column 'logps@mismatched' has shape \(5,\); it needs the shape \(0,\)"),
        ("mismatched", (60, 2), "column 'mismatched' .* a name of its own"),
    ],
)
def test_columns_that_do_not_fit_the_set_are_refused(name, shape, words):
    groups = random_groups()
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(groups, columns={name: np.zeros(shape, np.float32)})


def test_a_column_of_tokens_without_that_of_the_donors_is_refused():
    groups = random_groups()
    donors, numbers = donated(groups)
    with pytest.raises(ValueError, match=rf"give logps@mismatched too, with shape \({len(numbers)},\)"):
        dataclasses.replace(groups, donors=donors, columns=columns_of(groups))

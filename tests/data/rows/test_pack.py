"""Packing: rows decode back to the exact sequences, and sharing the prompt changes no scored token."""

import numpy as np
import pytest
from tiny_data import make_groups, random_groups

from jaxalign.data.rows import pack


def visible(arrays, row, i):
    """Positions that token i of a row sees, by the attention rule of types.Batch."""
    segments, prefixes = arrays["segments"][row], arrays["prefixes"][row]
    j = np.arange(len(segments))
    return (j <= i) & (segments[i] != 0) & ((segments == segments[i]) | ((prefixes[i] != 0) & (segments == prefixes[i])))


def scored_sequences(arrays, responses):
    """(group, response) slots of the batch -> what the scored tokens are and the whole sequence that each last one sees."""
    rows, _ = arrays["tokens"].shape
    width = arrays["paired"].shape[0] // rows
    found = {}
    for row in range(rows):
        for slot in range(width * responses):
            at = np.flatnonzero(arrays["slots"][row] == slot)
            if len(at):
                seen = np.flatnonzero(visible(arrays, row, at[-1]))
                tokens, positions = arrays["tokens"][row, seen], arrays["positions"][row, seen]
                order = np.argsort(positions, kind="stable")
                found[row * width + slot // responses, slot % responses] = (
                    arrays["tokens"][row, at].tolist(),
                    arrays["positions"][row, at].tolist(),
                    tokens[order].tolist(),
                    positions[order].tolist(),
                )
    return found


@pytest.mark.parametrize("share_prompt", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("responses", [1, 2, 4])
def test_rows_decode_back_to_the_exact_sequences(share_prompt, packed, responses):
    groups = random_groups(responses=responses)
    sizes = pack.group_tokens(groups, share_prompt=share_prompt)
    plan = pack.plan_rows(sizes, row_tokens=128, pack=packed)
    arrays = pack.assemble(groups, plan, row_tokens=128, share_prompt=share_prompt)
    found = scored_sequences(arrays, groups.responses)
    members = plan.ravel()
    expected = {(n, k) for n, g in enumerate(members) if g >= 0 for k in range(groups.responses) if groups.valid[g, k]}
    assert set(found) == expected
    for (n, k), (scored, _, sequence, positions) in found.items():
        prompt, _ = groups.piece(members[n], 0)
        tokens, mask = groups.piece(members[n], 1 + k)
        assert scored == tokens[mask == 1].tolist()
        whole = [*prompt.tolist(), *tokens.tolist()]
        # With a shared prompt the last prompt token is not in the prompt segment but heads the response: it is there once.
        assert sequence == whole[: len(sequence)]
        assert positions == list(range(len(sequence)))
        assert len(sequence) == len(prompt) + int(np.flatnonzero(mask)[-1]) + 1


@pytest.mark.parametrize("responses", [2, 4])
def test_a_shared_prompt_keeps_the_scored_tokens_and_their_positions(responses):
    groups = random_groups(responses=responses)
    plan = np.arange(len(groups), dtype=np.int32)[:, None]
    shared = scored_sequences(pack.assemble(groups, plan, row_tokens=200, share_prompt=True), groups.responses)
    unshared = scored_sequences(pack.assemble(groups, plan, row_tokens=200, share_prompt=False), groups.responses)
    assert shared == unshared


def test_the_shared_layout_of_one_pair_is_as_documented():
    groups = make_groups([3], [[2, 1]])
    arrays = pack.assemble(groups, np.array([[0]]), row_tokens=8, share_prompt=True)
    assert arrays["tokens"][0].tolist() == [1, 2, 3, 4, 5, 3, 6, 0]
    assert arrays["positions"][0].tolist() == [0, 1, 2, 3, 4, 2, 3, 0]
    assert arrays["segments"][0].tolist() == [1, 1, 2, 2, 2, 3, 3, 0]
    assert arrays["prefixes"][0].tolist() == [0, 0, 1, 1, 1, 1, 1, 0]
    assert arrays["slots"][0].tolist() == [-1, -1, -1, 0, 0, -1, 1, -1]


def test_a_prompt_of_one_token_has_no_prompt_segment():
    groups = make_groups([1], [[2, 1]])
    arrays = pack.assemble(groups, np.array([[0]]), row_tokens=6, share_prompt=True)
    assert arrays["tokens"][0].tolist() == [1, 2, 3, 1, 4, 0]
    assert arrays["segments"][0].tolist() == [1, 1, 1, 2, 2, 0]
    assert arrays["prefixes"][0].tolist() == [0] * 6
    assert pack.group_tokens(groups, share_prompt=True).tolist() == [5]


@pytest.mark.parametrize("share_prompt", [True, False])
@pytest.mark.parametrize("responses", [1, 2, 4])
def test_group_tokens_is_what_a_group_takes_in_its_row(share_prompt, responses):
    groups = random_groups(responses=responses)
    plan = np.arange(len(groups))[:, None]
    arrays = pack.assemble(groups, plan, row_tokens=200, share_prompt=share_prompt)
    taken = np.count_nonzero(arrays["segments"], axis=1)
    assert taken.tolist() == pack.group_tokens(groups, share_prompt=share_prompt).tolist()


def test_every_group_is_in_exactly_one_row_and_no_row_overflows():
    sizes = np.random.default_rng(1).integers(1, 100, 500)
    plan = pack.plan_rows(sizes, row_tokens=128, pack=True, max_groups=3)
    assert sorted(plan[plan >= 0].tolist()) == list(range(500))
    assert plan.shape[1] == 3
    assert max(sizes[row[row >= 0]].sum() for row in plan) <= 128


def test_the_same_sizes_give_the_same_plan():
    sizes = np.random.default_rng(1).integers(1, 100, 500)
    first, second = (pack.plan_rows(sizes, row_tokens=128, pack=True) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("row_tokens", [1024, 2048, 4096])
def test_groups_of_lengths_as_text_has_them_fill_at_least_97_percent(row_tokens):
    lengths = np.random.default_rng(1).lognormal(np.log(240), 0.6, 3000).astype(int)  # HH pairs: 240 tokens, half to twice as many
    sizes = np.clip(lengths, 20, row_tokens)
    plan = pack.plan_rows(sizes, row_tokens=row_tokens, pack=True)
    assert pack.fill(sizes, plan, row_tokens=row_tokens) >= 0.97
    assert len(plan) <= 1.01 * -(-sizes.sum() // row_tokens)  # no plan has fewer than that


def test_a_group_larger_than_a_row_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="group 1 has 30 tokens.*row_tokens=20.*max_prompt_tokens"):
        pack.plan_rows(np.array([5, 30]), row_tokens=20, pack=True)


def test_no_group_at_all_is_refused():
    with pytest.raises(ValueError, match="no group"):
        pack.plan_rows(np.array([], np.int64), row_tokens=20, pack=True)


def test_rows_of_filler_are_padding_and_not_valid():
    groups = make_groups([3], [[2, 1]])
    arrays = pack.assemble(groups, np.array([[0], [-1]]), row_tokens=8, share_prompt=True)
    assert not arrays["segments"][1].any() and not arrays["valid"][1].any() and (arrays["slots"][1] == -1).all()
    assert arrays["valid"][0].all() and arrays["paired"].tolist() == [True, False]

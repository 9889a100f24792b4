"""Rollouts in rows: one shape for every batch, and every prompt and sample where the attention rule expects it."""

import jax
import numpy as np
import pytest

from jaxalign.rollout.feedback import labels, pairs
from jaxalign.rollout.layout import Layout, group_tokens
from jaxalign.rollout.prompts import Prompts

RANDOM = np.random.default_rng(0)
NEW, LONGEST = 5, 6


def ids(length):
    return RANDOM.integers(1, 90, length).tolist()


def layout(responses, *, paired=False, mismatched=False, share_prompt=True, prompts=3, columns=()):
    longest = group_tokens(LONGEST, responses=responses + mismatched, new_tokens=NEW, share_prompt=share_prompt)
    options = {"prompts": prompts, "responses": responses, "paired": paired, "share_prompt": share_prompt, "mismatched": mismatched}
    return Layout(2, 2 * longest, columns=columns, computed=(), token_columns=(), **options)


def arrays(made, judged, prompts, texts, rows=slice(None), columns=None):
    chosen = [[own[k] for k in numbers] for own, numbers in zip(texts, judged.chosen.tolist(), strict=True)]
    return made.arrays(prompts, chosen, judged, columns or {}, rows=rows, seed=1)


def said(batch, slot):
    """Tokens scored in a slot (row, g * K + k)."""
    row, place = slot
    return batch["tokens"][row, batch["slots"][row] == place].tolist()


@pytest.mark.parametrize("share_prompt", [True, False])
@pytest.mark.parametrize("length", [1, LONGEST])
def test_the_longest_group_takes_the_room_that_is_counted(share_prompt, length):
    made = layout(3, share_prompt=share_prompt, prompts=4)
    prompts, texts = [ids(length) for _ in range(4)], [[ids(NEW) for _ in range(3)] for _ in range(4)]
    batch = arrays(made, labels(np.arange(12.0).reshape(4, 3)), prompts, texts)
    used = (batch["segments"] > 0).sum(1)
    expected = 2 * group_tokens(length, responses=3, new_tokens=NEW, share_prompt=share_prompt)
    assert (used == expected).all() or (length == 1 and (used <= expected).all())


def test_prompt_i_is_group_i_over_rows_of_row_i_modulo_rows():
    made = layout(2, paired=True, columns=("reward_of",))
    prompts, texts = [ids(4), ids(2), ids(LONGEST)], [[ids(3), ids(NEW), ids(1)] for _ in range(3)]
    judged = pairs(np.array([[0.0, 2.0, 1.0], [3.0, 1.0, 0.0], [1.0, 1.0, 1.0]]))
    batch = arrays(made, judged, prompts, texts, columns={"reward_of": np.arange(6, dtype=np.float32).reshape(3, 2)})
    assert said(batch, (0, 0)) == texts[0][1] and said(batch, (0, 1)) == texts[0][0]
    assert said(batch, (1, 0)) == texts[1][0] and said(batch, (1, 1)) == texts[1][2]
    assert said(batch, (0, 2)) == []  # a tie is not laid
    assert batch["valid"].tolist() == [[True, True], [False, False], [True, True], [False, False]]
    assert batch["paired"].tolist() == [True, True, True, False]  # group 1 of row 1 is filler
    assert batch["columns"]["reward_of"][[0, 2]].tolist() == [[0.0, 1.0], [2.0, 3.0]]


def shapes_of(batch):
    return jax.tree.map(np.shape, batch)


def test_batches_have_one_shape_whatever_was_said():
    made = layout(2, mismatched=True, prompts=4)
    for lengths in ([1, 2, 3, 4], [LONGEST] * 4):
        texts = [[ids(n % NEW + 1) for n in range(2)] for _ in lengths]
        batch = arrays(made, labels(RANDOM.random((4, 2))), [ids(n) for n in lengths], texts)
        assert shapes_of(batch) == shapes_of(made.empty(2))


def test_every_group_has_a_response_of_another_prompt_where_the_objective_reads_one():
    made = layout(2, mismatched=True, prompts=4)
    prompts, texts = [ids(3) for _ in range(4)], [[ids(2), ids(NEW)] for _ in range(4)]
    batch = arrays(made, labels(np.zeros((4, 2))), prompts, texts)  # all tied: they are given all the same
    marked = batch["columns"]["mismatched"]
    assert (marked == [0, 0, 1]).all() and not batch["valid"].any()
    for number in range(4):
        row, group = number % 2, number // 2
        donated = said(batch, (row, group * 3 + 2))
        assert donated in [text for other in range(4) if other != number for text in texts[other]]


def test_hosts_lay_the_rows_of_the_whole_batch():
    made = layout(2, mismatched=True, prompts=4)
    prompts, texts = [ids(3) for _ in range(4)], [[ids(2), ids(NEW)] for _ in range(4)]
    judged = labels(RANDOM.random((4, 2)))
    whole = arrays(made, judged, prompts, texts)
    parts = [arrays(made, judged, prompts, texts, slice(row, row + 1)) for row in range(2)]
    for name in ("tokens", "slots", "valid", "reward"):
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])


def prompts_of(count, batch, seed=0):
    return Prompts([None] * count, [(number,) for number in range(count)], batch, seed)


def test_an_epoch_takes_no_prompt_twice_and_the_next_has_another_order():
    made = prompts_of(10, 3)
    first, second = ([made.of_batch(3 * epoch + i) for i in range(3)] for epoch in range(2))
    for epoch in (first, second):
        flat = sum(epoch, [])
        assert len(set(flat)) == 9 and set(flat) <= set(range(10))
    assert first != second and made.of_batch(4) == prompts_of(10, 3).of_batch(4) != prompts_of(10, 3, seed=1).of_batch(4)


def test_fewer_prompts_than_a_step_takes_are_refused():
    with pytest.raises(ValueError, match="has 2 prompts and a step takes 3; give more prompts, or set data.rollout.prompts_per_step"):
        prompts_of(2, 3)

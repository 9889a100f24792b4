"""The lists of blocks that meet contain all that the rule lets through, little more, and call whole only what is seen whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.models.attention import blocks

LENGTH = 96


def packed(random, responses: int, *, longest: int):
    """Positions, segments and prefixes int32[3, LENGTH] of a row of prompts, each with this many responses or fewer, and padding."""
    marks, used, segment = np.zeros((3, LENGTH), np.int32), 0, 0
    while True:
        lengths = random.integers(1, longest, 1 + random.integers(1, responses + 1))
        if used + lengths.sum() > LENGTH - random.integers(0, 20):
            return marks
        prompt = segment + 1
        for piece, length in enumerate(lengths):
            segment += 1
            start = lengths[0] - 1 if piece else 0
            for mark, values in zip(marks, (start + np.arange(length), segment, prompt * (piece > 0)), strict=True):
                mark[used : used + length] = values
            used += length


def rule(positions, segments, prefixes, window):
    """bool[T, T]: which token sees which."""
    own, theirs, index = segments[:, None], segments[None], np.arange(len(segments))
    related = (theirs == own) | ((prefixes[:, None] != 0) & (theirs == prefixes[:, None]))
    near = (window == 0) | (positions[:, None] - positions[None] < window)
    return (index <= index[:, None]) & (own != 0) & related & near


def by_block(dense, query_block, key_block):
    """bool[blocks, key blocks, queries, keys], filled up with pairs that do not see each other."""
    dense = np.pad(dense, [(0, -LENGTH % query_block), (0, -LENGTH % key_block)])
    return dense.reshape(len(dense) // query_block, query_block, -1, key_block).swapaxes(1, 2)


@jax.jit(static_argnums=(4, 5))
def lists(positions, segments, prefixes, window, query_block, key_block):
    meets, whole = blocks.seen(positions, segments, prefixes, window, query_block, key_block)
    other_side = blocks.listed(meets.swapaxes(-1, -2), whole.swapaxes(-1, -2))
    return meets, whole, blocks.listed(meets, whole), other_side


@pytest.mark.parametrize(("query_block", "key_block"), [(8, 8), (16, 8), (8, 32), (20, 12)])
def test_nothing_that_is_seen_is_left_out_and_little_is_met_in_vain(query_block, key_block):
    random, met, needed = np.random.default_rng(0), 0, 0
    rows = np.stack([packed(random, 1 + i % 8, longest=(6, 12, 40)[i % 3]) for i in range(48)], 1)
    for window in (0, 5, 20):
        meets, whole, there, back = jax.tree.map(np.asarray, lists(*rows, jnp.int32(window), query_block, key_block))
        for i in range(rows.shape[1]):
            exact = by_block(rule(*rows[:, i], window), query_block, key_block)
            assert not (exact.any((2, 3)) & ~meets[i]).any()
            assert not (whole[i] & ~exact.all((2, 3))).any()
            met, needed = met + meets[i].sum(), needed + exact.any((2, 3)).sum()
            for matrix, wholes, found in ((meets[i], whole[i], there), (meets[i].T, whole[i].T, back)):
                for block, (places, first, count) in enumerate(zip(*(x[i] for x in found), strict=True)):
                    expected = [*np.flatnonzero(wholes[block]), *np.flatnonzero(matrix[block] & ~wholes[block])]
                    assert places[:count].tolist() == expected and first == wholes[block].sum()
                    assert (places[count:] == (expected or [0])[-1]).all()
    assert needed <= met <= 1.1 * needed


def test_any_ids_at_any_positions_are_met():
    random = np.random.default_rng(1)
    for _ in range(50):
        marks = random.integers(0, 5, (3, LENGTH)).astype(np.int32)
        meets, whole, *_ = lists(*marks, jnp.int32(3), 8, 8)
        exact = by_block(rule(*marks, 3), 8, 8)
        assert not (exact.any((2, 3)) & ~np.asarray(meets)).any()
        assert not (np.asarray(whole) & ~exact.all((2, 3))).any()


def test_a_plain_causal_row_masks_its_diagonal_only():
    positions, ones = jnp.arange(LENGTH), jnp.ones(LENGTH, jnp.int32)
    _, _, there, back = lists(positions, ones, jnp.zeros_like(ones), jnp.int32(0), 8, 8)
    assert (there.count - there.whole).tolist() == [1] * 12 and there.whole.tolist() == list(range(12))
    assert (back.count - back.whole).tolist() == [1] * 12 and back.whole.tolist() == list(range(12))[::-1]


def test_a_shared_prompt_is_seen_whole_by_its_answers_and_a_window_cuts_it():
    segments = jnp.repeat(jnp.arange(4), jnp.array([16, 16, 32, 32]), total_repeat_length=LENGTH)  # padding, a prompt, two answers
    prefixes = jnp.where(segments > 1, 1, 0)
    positions = jnp.concatenate([jnp.zeros(16, jnp.int32), jnp.arange(16), 15 + jnp.arange(32), 15 + jnp.arange(32)])
    _, _, there, _ = lists(positions, segments, prefixes, jnp.int32(0), 8, 8)
    assert there.count.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6]
    assert there.whole.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 2, 3, 4, 5]
    assert there.places[8, :3].tolist() == [2, 3, 8]  # the second answer meets the prompt and itself
    _, _, there, _ = lists(positions, segments, prefixes, jnp.int32(12), 8, 8)
    assert there.count.tolist() == [0, 0, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3]
    assert there.whole.tolist() == [0] * 12

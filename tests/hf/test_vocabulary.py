"""Tables grow by the tokens that a tokenizer gains: the mean of the rows before, the same numbers on every mesh."""

import dataclasses

import checkpoints
import jax
import numpy as np
import pytest
import tiny_data

from jaxalign import sharding
from jaxalign.data.text import tokenizer as tokenizers
from jaxalign.hf import vocabulary
from jaxalign.hf.vocabulary import Gained
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig

TINY = dict(family="llama", width=16, layers=1, heads=4, kv_heads=2, head_dim=4, mlp_width=24, max_positions=32)


def grown(rows, gained, *, tied=False, mesh=None):
    """(tables before, tables after) as host arrays."""
    before = models.build(ModelConfig(**TINY, vocab_size=rows, tied=tied))
    after = models.build(dataclasses.replace(before.config, vocab_size=gained.vocab_size(rows)))
    with jax.set_mesh(mesh or checkpoints.one_device()):
        params = models.init(before, jax.random.key(0))
        larger = vocabulary.grow(params, before, after, gained)
        assert jax.tree.map(lambda x: x.sharding.spec, larger) == models.shardings(after)
        assert jax.tree.map(lambda x: x.shape, larger) == jax.tree.map(lambda s: s.shape, after.shapes)
        return jax.device_get((params, larger))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("rows", "ids", "known"), [
    (20, (20, 21), 20),
    (20, (18, 19), 18),  # rows that no token had
    (127, (127, 128), 127),  # one more multiple of 128
    (128, (126, 128, 129), 126),
])  # fmt: skip
def test_new_rows_are_the_mean_of_the_old_ones_and_padding_stays_zero(rows, ids, known, tied):
    before, after = grown(rows, Gained(ids, known), tied=tied)
    for part, name in vocabulary.TABLES[: 1 if tied else 2]:
        old, new = before[part][name], after[part][name]
        kept = [number for number in range(rows) if number not in ids]
        np.testing.assert_array_equal(new[kept], old[kept])
        np.testing.assert_allclose(new[list(ids)], np.tile(old[:known].mean(0, dtype=np.float64), (len(ids), 1)), rtol=1e-6)
        assert not new[max(rows, max(ids) + 1) :].any() and new.shape[0] % 128 == 0
    jax.tree.map(np.testing.assert_array_equal, before["layers"], after["layers"])


def test_the_numbers_are_the_same_on_every_mesh():
    gained = Gained((127, 128), 127)
    one, several = grown(127, gained)[1], grown(127, gained, mesh=sharding.make_mesh(2, 2, 2, devices=jax.devices()[:8]))[1]
    jax.tree.map(np.testing.assert_array_equal, one, several)


def test_tokens_that_are_there_are_not_gained(tmp_path):
    before = tokenizers.load(tiny_data.write_tokenizer(tmp_path / "t", extra=("<|im_end|>",)))
    tokens = ("<|im_start|>", "<|im_end|>", "<tool>")
    after = before.with_added(tokens)
    found = vocabulary.gained(before, after, tokens)
    assert found == Gained((before.vocab_size, before.vocab_size + 1), before.vocab_size)
    assert found.vocab_size(300) == 300 and found.vocab_size(100) == before.vocab_size + 2

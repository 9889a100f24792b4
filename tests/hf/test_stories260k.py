"""The packaged stories260K checkpoint reproduces its golden log-probs and greedy text, and its tokenizer loads without a network."""

import functools
import json
from pathlib import Path

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxalign
from jaxalign.hf.load import load, load_config
from jaxalign.models import model as models

FOLDER = Path(jaxalign.__file__).parent / "assets" / "stories260k"
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "stories260k.json").read_text())
LENGTH = 256


@functools.cache
def _logits_function():
    """tokens of one sequence -> logits [LENGTH, V], the sequence filled up with zeros behind it."""
    model = models.build(load_config(FOLDER))
    with jax.set_mesh(checkpoints.one_device()):
        params = load(FOLDER, model)
        run = jax.jit(lambda params, inputs: checkpoints.logits(model, params, inputs)[0])

    def logits(tokens):
        with jax.set_mesh(checkpoints.one_device()):
            return np.asarray(run(params, checkpoints.plain(np.pad(tokens, (0, LENGTH - len(tokens)))[None])))

    return logits


def _is_greedy(tokens, start):
    """Whether every token from `start` on is the most likely one after those before it: then it is what greedy decoding gives."""
    return (_logits_function()(tokens)[start - 1 : len(tokens) - 1].argmax(-1) == tokens[start:]).all()


@pytest.mark.parametrize("item", GOLDEN["items"], ids=lambda item: item["text"][:20])
def test_log_probs_and_logits_equal_the_golden_ones(item):
    ids = item["ids"]
    logits = _logits_function()(ids)[: len(ids)]
    logps = np.take_along_axis(np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))[:-1], np.array(ids)[1:, None], 1)[:, 0]
    np.testing.assert_allclose(logps, item["token_logprobs"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits[-1], item["last_logits"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("item", [item for item in GOLDEN["items"] if "greedy_ids" in item], ids=lambda item: item["text"][:20])
def test_greedy_continuations_equal_the_golden_ones(item):
    assert _is_greedy(item["ids"] + item["greedy_ids"], len(item["ids"]))


def test_greedy_text_from_bos_is_what_the_authors_test_expects():
    transformers = pytest.importorskip("transformers")
    tokens = transformers.AutoTokenizer.from_pretrained(FOLDER)(GOLDEN["greedy_from_bos"]["stdout"])["input_ids"]
    assert len(tokens) > 150 and _is_greedy(tokens, 1)


@pytest.mark.parametrize("item", GOLDEN["items"], ids=lambda item: item["text"][:20])
def test_tokenizer_gives_the_golden_ids_and_knows_its_special_tokens(item):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    assert tokenizer(item["text"])["input_ids"] == item["ids"]
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)

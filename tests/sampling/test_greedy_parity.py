"""Greedy samples equal those of transformers.generate, for the small trained model and for families: all of them with SWEEP=1."""

import os

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import paths
from jaxalign.hf.load import load, load_config
from jaxalign.models import model as models
from jaxalign.sampling.law import Law
from jaxalign.sampling.sampler import Sampler
from jaxalign.sampling.stopping import Stopping

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NEW = 20
STORIES = "stories260k"


CASES = checkpoints.CASES if os.environ.get("SWEEP") else ("gemma2", "gpt2")  # log-probs: test_sampler


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in CASES] + [STORIES])
def test_greedy_samples_equal_those_of_transformers(name, tmp_path):
    folder = tmp_path
    if name == STORIES:
        folder = paths.resolve(f"package:{STORIES}")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        theirs = checkpoints.torch_model(name)
        theirs.save_pretrained(folder)
    theirs.generation_config.eos_token_id = None
    draw = np.random.default_rng(0)
    prompts = [draw.integers(3, theirs.config.vocab_size, n).tolist() for n in (1, 7, 20)]
    expected = [theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=NEW, pad_token_id=0)[0, len(ids) :] for ids in prompts]
    model = models.build(load_config(folder))
    with jax.set_mesh(checkpoints.one_device()):
        sampler = Sampler(
            model, law=Law(0.0), stopping=Stopping(NEW), seed=0, places=2, lanes=1, dtype=jnp.float32, attention="xla"
        )  # fmt: skip
        samples = sorted(sampler.draw(load(folder, model), prompts, samples=1), key=lambda sample: sample.prompt)
    for sample, tokens in zip(samples, expected, strict=True):
        np.testing.assert_array_equal(sample.token_ids, tokens.numpy())

"""Model configs are checked whole; presets build without allocating and are written as config.json of their family."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxalign.hf import names
from jaxalign.hf.config import from_json
from jaxalign.hf.config_json import to_json
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig, RopeScaling
from jaxalign.models.presets import PRESETS, preset

SIZES = dict(family="llama", vocab_size=20, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, mlp_width=24, max_positions=32)
# Published sizes in millions of parameters, the embedding counted once where it is tied.
MILLIONS = {
    "llama3-8b": 8030, "llama3-1b": 1236, "qwen2.5-7b": 7616, "pythia-2.8b": 2775, "mistral-7b": 7242, "gemma2-2b": 2614, "gemma3-1b": 1000,
    "gpt2": 124,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(family="t5"), "unknown family"),
        (dict(layers=0), "layers 0 must be at least 1"),
        (dict(kv_heads=3), "heads 4 must be a multiple of kv_heads 3"),
        (dict(norm="batch"), "norm 'batch' is not one of"),
        (dict(norm="layer", norm_offset=True), "norm_offset needs norm 'rms'"),
        (dict(activation="tanh"), "activation 'tanh' is not one of"),
        (dict(rotary_fraction=0.3), "rotate an even number of head_dim 4"),
        (dict(learned_positions=True), "set exactly one of"),
        (dict(rotary_fraction=0.0), "set exactly one of"),
        (dict(windows=(4,)), "must hold 2 numbers"),
        (dict(post_norms=True, parallel_residual=True), "exclude each other"),
        (dict(logit_softcap=-1.0), "soft caps must be >= 0"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:25],
)
def test_an_impossible_config_is_refused_with_the_rule(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{**SIZES, **change})


def test_all_problems_of_a_config_are_reported_together():
    with pytest.raises(ValueError, match="kv_heads 3.*activation 'tanh'"):
        ModelConfig(**{**SIZES, "kv_heads": 3, "activation": "tanh"})


@pytest.mark.parametrize(
    "arguments", [("yarn", 2.0), ("linear", 0.5), ("llama3", 8.0, 4.0, 4.0)], ids=lambda arguments: arguments[0]
)
def test_an_impossible_rope_scaling_is_refused(arguments):
    with pytest.raises(ValueError, match="rope|scaling"):
        RopeScaling(*arguments)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'llama9' is not one of .*gpt2"):
        preset("llama9")


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_survives_its_config_json_and_has_a_tensor_for_every_parameter(name):
    config = preset(name)
    assert from_json(to_json(config)) == config
    model = models.build(config)
    held = sum(int(np.prod(names.file_shape(tensor, config))) for tensor in names.tensors(model))
    padding = (config.padded_vocab - config.vocab_size) * config.width * (1 if config.tied else 2)
    assert held == sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(model.shapes)) - padding


@pytest.mark.parametrize("name", list(MILLIONS))
def test_a_preset_has_the_published_number_of_parameters(name):
    model = models.build(preset(name))
    assert round(sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(model.shapes)) / 1e6) == pytest.approx(MILLIONS[name], rel=2e-3)


def test_random_weights_leave_padded_vocabulary_rows_at_zero():
    import checkpoints

    model = models.build(ModelConfig(**SIZES))
    with jax.set_mesh(checkpoints.one_device()):
        table = np.asarray(models.unembed(model, models.init(model, jax.random.key(0))))
    assert table.shape == (128, 16) and not table[20:].any() and table[:20].std() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("module", ["jaxalign.export"])
def test_help_of_the_export_command_is_shown_without_importing_jax(module):
    code = f"import sys; sys.argv = ['x', '--help']; import {module} as m\ntry: m.main()\nexcept SystemExit: print('jax' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--workdir" in shown and shown.strip().endswith("False")

"""Folders of adapters: the logits of `peft` in both directions, and what is wrong with a folder is found before it is served."""

import dataclasses
import json
import types

import checkpoints
import jax
import numpy as np
import pytest
import toys

from jaxalign.hf import adapters, tensors
from jaxalign.models import lora
from jaxalign.models import model as models
from jaxalign.training.sources import Source

TOKENS = np.random.default_rng(0).integers(3, 101, (2, 12))
KINDS = {  # family -> options of peft's LoraConfig: all linear maps, fused ones, ranks and scales that differ
    "llama": dict(r=4, lora_alpha=6, rank_pattern={"q_proj": 2}, alpha_pattern={"down_proj": 3}, target_modules="all-linear"),
    "gpt_neox": dict(r=3, lora_alpha=5, target_modules="all-linear"),
    "gpt2": dict(r=4, lora_alpha=8, use_rslora=True, target_modules=["attn.c_attn", "c_fc", "mlp.c_proj"], layers_to_transform=[0, 2]),
}


def logits(model, params):
    inputs = checkpoints.plain(TOKENS)
    return np.asarray(jax.jit(lambda params: checkpoints.logits(model, params, inputs))(params))


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("family", KINDS)
def test_logits_equal_those_of_peft_in_both_directions(family, tmp_path):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    checkpoints.torch_model(family).save_pretrained(tmp_path / "base")
    theirs = peft.get_peft_model(checkpoints.torch_model(family), peft.LoraConfig(**KINDS[family]))
    theirs.base_model.model.config._name_or_path = theirs.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    theirs.save_pretrained(tmp_path / "theirs")
    wanted = theirs.eval()(torch.tensor(TOKENS)).logits.detach().numpy()
    source = Source(str(tmp_path / "theirs"))
    model = models.build(source.config())
    source.check(model)
    with jax.set_mesh(checkpoints.one_device()):
        assert_close(logits(model, source.load(model)), wanted)
        config = adapters.load_config(source.folder, model)
        adapted = models.build(source.config(), lora=config)
        params = source.load(adapted)
        ours = logits(adapted, params)
        assert_close(ours, wanted)
        write(tmp_path / "ours", adapted, params, base=str(tmp_path / "base"))
    again = peft.PeftModel.from_pretrained(checkpoints.torch_model(family), str(tmp_path / "ours")).eval()
    assert_close(again(torch.tensor(TOKENS)).logits.detach().numpy(), ours)


def write(folder, model, params, *, base="base", rename=lambda name: name, values=types.MappingProxyType({})):
    folder.mkdir()
    arrays = {rename(name): array for name, array in adapters.tensors(model, params).items()}
    tensors.write(folder / adapters.WEIGHTS, {name: array.shape for name, array in arrays.items()}, "float32", arrays.get)
    (folder / adapters.CONFIG).write_text(json.dumps({**adapters.written_config(model, base_name=base), **values}))


@pytest.fixture(scope="module")
def trained():
    model = toys.headed_model(lora=True)
    with jax.set_mesh(toys.mesh()):
        return models.build(toys.CONFIG), models.build(toys.CONFIG, lora=model.lora), toys.headed_params(0, lora=True)


def test_a_folder_is_read_as_it_was_written_and_names_are_those_of_peft(trained, tmp_path):
    plain, model, params = trained
    write(tmp_path / "a", model, params)
    every = ("attention.k", "attention.output", "attention.q", "attention.v", "mlp.down", "mlp.gate", "mlp.up")
    assert adapters.load_config(tmp_path / "a", plain) == lora.LoraConfig(model.lora.rank, model.lora.alpha, every)
    assert "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight" in tensors.scan(tmp_path / "a" / adapters.WEIGHTS)
    with jax.set_mesh(toys.mesh()):
        read = adapters.load(tmp_path / "a", model)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(read), jax.device_get(params[models.LORA]))


@pytest.mark.parametrize(
    ("rename", "values", "words"),
    [
        (lambda name: name.removeprefix("base_model."), {}, "no linear map of this qwen3.*names are like base_model.model.model.layers.0"),
        (lambda name: name.replace("lora_A.weight", "lora_A.default.weight"), {}, "belong to no linear map"),
        (lambda name: name, {"use_dora": True}, "use_dora=True is not supported"),
        (lambda name: name, {"bias": "all"}, "bias='all' trains biases too"),
        (lambda name: name, {"peft_type": "IA3"}, "peft_type='IA3' is not supported"),
        (lambda name: name, {"init_lora_weights": "pissa_niter_4"}, "changes the base too"),
        (lambda name: name, {"modules_to_save": ["embed_tokens"]}, "modules_to_save=.* is not supported"),
        (lambda name: name, {"r": 0}, "must be numbers above 0"),
    ],
)
def test_what_would_serve_the_base_or_another_model_is_refused(trained, tmp_path, rename, values, words):
    plain, model, params = trained
    write(tmp_path / "a", model, params, rename=rename, values=values)
    with pytest.raises(ValueError, match=words):
        adapters.load_config(tmp_path / "a", plain)


def test_an_adapter_of_another_size_is_refused(trained, tmp_path):
    _, model, params = trained
    write(tmp_path / "a", model, params)
    wider = models.build(dataclasses.replace(toys.CONFIG, mlp_width=64))
    with pytest.raises(ValueError, match=r"has the shapes \(3, 48\) and \(32, 3\), and this qwen3 needs \(rank, 64\)"):
        adapters.load_config(tmp_path / "a", wider)


def test_an_adapter_that_changes_nothing_is_an_error_when_written_and_when_read(trained, tmp_path):
    _, model, params = trained
    with jax.set_mesh(toys.mesh()):
        fresh = models.init_heads(model, jax.random.key(0))
        with pytest.raises(ValueError, match="changes nothing: every lora_B in it is zero"):
            adapters.tensors(model, fresh)
        write(tmp_path / "a", model, params)
        silent = {name: np.zeros(one.shape) for name, one in tensors.scan(tmp_path / "a" / adapters.WEIGHTS).items()}
        tensors.write(tmp_path / "a" / adapters.WEIGHTS, {name: one.shape for name, one in silent.items()}, "float32", silent.get)
        with pytest.raises(ValueError, match="changes nothing"):
            adapters.load(tmp_path / "a", model)


def test_a_number_that_is_not_finite_is_named(trained, tmp_path):
    _, model, params = trained
    with jax.set_mesh(toys.mesh()):
        write(tmp_path / "a", model, params)
        stored = {name: one.read().copy() for name, one in tensors.scan(tmp_path / "a" / adapters.WEIGHTS).items()}
        name = max(stored)
        stored[name].flat[0] = np.nan
        tensors.write(tmp_path / "a" / adapters.WEIGHTS, {key: one.shape for key, one in stored.items()}, "float32", stored.get)
        with pytest.raises(ValueError, match=f"tensor {name} in .*{adapters.WEIGHTS} holds 1 numbers that are not finite"):
            adapters.load(tmp_path / "a", model)


def test_a_classifier_of_several_labels_is_no_reward_model(trained, tmp_path):
    _, model, params = trained
    write(tmp_path / "a", model, params)
    stored = {name: one.read().copy() for name, one in tensors.scan(tmp_path / "a" / adapters.WEIGHTS).items()}
    for labels in (1, 2):
        stored[adapters.SCORE] = np.ones((labels, toys.CONFIG.width), np.float32)
        tensors.write(tmp_path / "a" / adapters.WEIGHTS, {key: one.shape for key, one in stored.items()}, "float32", stored.get)
        judge = models.build(dataclasses.replace(toys.CONFIG, tied=True), reward_head="linear")
        if labels == 1:
            assert adapters.load_config(tmp_path / "a", judge)
        else:
            with pytest.raises(ValueError, match=r"score.weight in .* has the shape \(2, 32\), and a reward model .* has one label"):
                adapters.load_config(tmp_path / "a", judge)

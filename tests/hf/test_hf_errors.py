"""Bad checkpoints are refused before a tensor is read, with the name, the value and the way out."""

import json
import re
import shutil

import checkpoints
import jax
import numpy as np
import pytest

from jaxalign.hf import load as hf_load
from jaxalign.hf import save as hf_save
from jaxalign.hf import tensors
from jaxalign.hf.config import from_json
from jaxalign.hf.config_json import to_json
from jaxalign.hf.load import load, load_config
from jaxalign.hf.save import save
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig

TINY = dict(vocab_size=20, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, mlp_width=24, max_positions=32)
MODEL = models.build(ModelConfig(family="llama", **TINY))
LLAMA = to_json(MODEL.config)


@pytest.fixture(scope="module")
def params():
    with jax.set_mesh(checkpoints.one_device()):
        return models.init(MODEL, jax.random.key(0))


@pytest.fixture
def folder(params, tmp_path):
    """A checkpoint in several shards."""
    with jax.set_mesh(checkpoints.one_device()):
        save(tmp_path / "model", MODEL, params, max_shard_bytes=8_000)
    return tmp_path / "model"


def _load(folder, monkeypatch):
    def read(_):
        raise AssertionError("a tensor was read before the checks were done")

    monkeypatch.setattr(tensors.Stored, "read", read)
    with jax.set_mesh(checkpoints.one_device()):
        return load(folder, MODEL)


def _refusal(folder, monkeypatch):
    """What is said of a folder that cannot be loaded."""
    with pytest.raises(ValueError) as error:
        _load(folder, monkeypatch)
    return str(error.value)


def _edit_index(folder, change):
    index = json.loads((folder / hf_load.INDEX).read_text())
    change(index["weight_map"])
    (folder / hf_load.INDEX).write_text(json.dumps(index))


def _rewrite(folder, change):
    """Replaces the shards by one file whose tensors `change` has edited."""
    found = {name: stored.read() for file in folder.glob("*.safetensors") for name, stored in tensors.scan(file).items()}
    found = {name: np.array(array) for name, array in found.items()}
    for file in folder.glob("model*"):
        file.unlink()
    change(found)
    tensors.write(folder / hf_load.SINGLE, {name: x.shape for name, x in found.items()}, "float32", found.__getitem__)


def test_a_missing_folder_is_named_with_how_to_get_one(tmp_path, monkeypatch):
    message = _refusal(tmp_path / "nowhere", monkeypatch)
    assert str(tmp_path / "nowhere") in message and "hf download" in message
    with pytest.raises(ValueError, match="is not a folder"):
        load_config(tmp_path / "nowhere")


def test_a_folder_without_config_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no config.json"):
        load_config(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}"], ids=["cut short", "not utf-8"])
def test_a_broken_config_json_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json is not valid JSON.*copy it again"):
        load_config(folder)


def test_a_folder_without_weights_says_which_files_it_looked_for(tmp_path, monkeypatch):
    message = _refusal(tmp_path, monkeypatch)
    assert "neither model.safetensors nor model.safetensors.index.json" in message and "copy the weights there" in message


def test_torch_weights_are_refused_with_the_conversion(tmp_path, monkeypatch):
    (tmp_path / "pytorch_model.bin").touch()
    message = _refusal(tmp_path, monkeypatch)
    assert "pytorch_model.bin" in message and "save_pretrained" in message


def test_a_missing_shard_is_named(folder, monkeypatch):
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    message = _refusal(folder, monkeypatch)
    assert "names 1 files that are not there" in message and shard.name in message and "copy them too" in message


def test_an_index_that_promises_more_than_the_shards_hold_is_refused(folder, monkeypatch):
    _edit_index(folder, lambda names: names.update({"model.extra": next(iter(names.values()))}))
    message = _refusal(folder, monkeypatch)
    assert "promises model.extra" in message


@pytest.mark.parametrize("keep", [4, -10], ids=["header", "tensors"])
def test_a_file_that_was_cut_short_is_refused(folder, monkeypatch, keep):
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:keep])
    message = _refusal(folder, monkeypatch)
    assert shard.name in message and "copy it again" in message


def test_a_missing_tensor_is_named(folder, monkeypatch):
    _rewrite(folder, lambda found: found.pop("model.layers.1.mlp.up_proj.weight"))
    message = _refusal(folder, monkeypatch)
    assert "1 tensors of the llama" in message and "are missing: model.layers.1.mlp.up_proj.weight." in message


def test_a_missing_head_points_to_tied_embeddings(folder, monkeypatch):
    _rewrite(folder, lambda found: found.pop("lm_head.weight"))
    message = _refusal(folder, monkeypatch)
    assert "missing: lm_head.weight; if the head is the embedding, set tie_word_embeddings to true" in message


def test_a_left_over_tensor_is_named(folder, monkeypatch):
    _rewrite(folder, lambda found: found.update({"model.layers.2.mlp.up_proj.weight": np.zeros((24, 16), np.float32)}))
    message = _refusal(folder, monkeypatch)
    assert "1 tensors have no place" in message and "model.layers.2.mlp.up_proj.weight" in message


def test_a_wrong_shape_is_named_with_both_shapes(folder, monkeypatch):
    _rewrite(folder, lambda found: found.update({"model.norm.weight": np.zeros((17,), np.float32)}))
    message = _refusal(folder, monkeypatch)
    assert "tensor model.norm.weight has shape (17,), config.json specifies (16,); correct config.json" in message


def test_many_problems_are_reported_together_and_counted(folder, monkeypatch):
    _rewrite(folder, lambda found: found.update({name: np.zeros((3,), np.float32) for name in list(found)[:8]}))
    message = _refusal(folder, monkeypatch)
    assert "has shape (3,)" in message and "And 3 more." in message


def test_an_unknown_dtype_is_refused(folder):
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes().replace(b'"F32"', b'"F8X"'))
    with jax.set_mesh(checkpoints.one_device()), pytest.raises(ValueError, match="dtype F8X is not supported; convert"):
        load(folder, MODEL)


def test_known_buffers_and_a_head_that_is_the_embedding_are_passed_over(params, folder):
    tied = models.build(ModelConfig(family="llama", **TINY, tied=True))
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, np.float32)}
    _rewrite(folder, lambda found: found.update(buffer, **{"lm_head.weight": found["model.embed_tokens.weight"]}))
    with jax.set_mesh(checkpoints.one_device()):
        loaded = load(folder, tied)
    np.testing.assert_array_equal(loaded["embed"]["tokens"], params["embed"]["tokens"])


def test_names_of_the_base_model_alone_are_accepted(params, folder):
    def strip(found):
        for name in list(found):
            found[name.removeprefix("model.")] = found.pop(name)

    _rewrite(folder, strip)
    with jax.set_mesh(checkpoints.one_device()):
        jax.tree.map(np.testing.assert_array_equal, load(folder, MODEL), params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mixtral"}, "model_type 'mixtral'; supported are"),
        ({"model_type": "gemma3", "text_config": {}}, "vision tower; only text is supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rotary scaling of type 'yarn'; supported are"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "type 'dynamic'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "a fraction 0.5 of each head"),
        ({"hidden_act": "quick_gelu"}, "activation 'quick_gelu'; supported are"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention to True"),
        ({"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 4, "layer_types": ["chunked"] * 2}, "['chunked']; "),
        ({"num_key_value_heads": 3}, "heads 4 must be a multiple of kv_heads 3"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:30],
)
def test_what_the_decoder_cannot_reproduce_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        from_json({**LLAMA, **change})


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="no key 'hidden_size'"):
        from_json({key: value for key, value in LLAMA.items() if key != "hidden_size"})


def test_a_config_that_its_family_cannot_express_is_refused_on_export(params, tmp_path):
    with pytest.raises(ValueError, match="a llama config.json cannot express windows = .4, 4.; choose a family"):
        to_json(ModelConfig(family="llama", **TINY, windows=(4, 4)))


def test_a_parameter_without_a_name_is_refused():
    model = models.build(ModelConfig(family="gpt2", **TINY))
    with pytest.raises(ValueError, match="'gpt2' have no tensor for .*layers.mlp.gate.kernel"):
        hf_save.names.tensors(model)


def test_export_refuses_an_existing_folder_an_unknown_dtype_and_a_missing_tokenizer(params, folder):
    with jax.set_mesh(checkpoints.one_device()):
        with pytest.raises(ValueError, match="exists; choose another folder or remove it"):
            save(folder, MODEL, params)
        with pytest.raises(ValueError, match="dtype 'float16' is not one of"):
            save(folder / "new", MODEL, params, dtype="float16")
        with pytest.raises(ValueError, match="tokenizer folder .* is not a folder"):
            save(folder / "new", MODEL, params, tokenizer_from=folder / "nowhere")


def test_a_full_disk_leaves_nothing_behind(params, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf_save, "write", full)
    with jax.set_mesh(checkpoints.one_device()), pytest.raises(OSError, match="No space left"):
        save(tmp_path / "model", MODEL, params)
    assert list(tmp_path.iterdir()) == []


def test_tokenizer_files_and_token_ids_are_carried_along(params, folder, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "training_args.bin"):
        (source / name).write_text("{}")
    (source / "config.json").write_text(json.dumps({**LLAMA, "eos_token_id": 7}))
    with jax.set_mesh(checkpoints.one_device()):
        save(tmp_path / "out", MODEL, params, tokenizer_from=source)
    carried = {"tokenizer.json", "chat_template.jinja", "generation_config.json"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == carried | {"config.json", "model.safetensors"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 7


def test_bfloat16_export_rounds_once_and_loads_as_float32(params, tmp_path):
    with jax.set_mesh(checkpoints.one_device()):
        save(tmp_path / "out", MODEL, params, dtype="bfloat16")
        loaded = load(tmp_path / "out", MODEL)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype("bfloat16").astype("float32")), loaded, params)


def test_a_checkpoint_loads_into_the_shards_of_any_mesh(params, folder):
    from jaxalign import sharding

    with jax.set_mesh(sharding.make_mesh(2, 2, 2, devices=jax.devices()[:8])):
        loaded = load(folder, MODEL)
        assert jax.tree.map(lambda x: x.sharding.spec, loaded) == models.shardings(MODEL)
        save(folder.parent / "again", MODEL, loaded)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    written = tensors.scan(folder.parent / "again" / hf_load.SINGLE)
    np.testing.assert_array_equal(written["model.embed_tokens.weight"].read(), np.asarray(params["embed"]["tokens"])[:20])

"""Nothing that a checkpoint folder holds is dropped without a word: each tensor and file is used, refused, or named."""

import json
import re
import shutil

import checkpoints
import jax
import numpy as np
import pytest

from jaxalign.hf import load as hf_load
from jaxalign.hf import notes, tensors
from jaxalign.hf.load import load
from jaxalign.hf.save import save
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig

TINY = dict(vocab_size=20, width=16, layers=1, heads=4, head_dim=4, mlp_width=24, max_positions=32)
LLAMA = dict(TINY, family="llama", kv_heads=2)
NEOX = dict(
    TINY, family="gpt_neox", kv_heads=4, norm="layer", gated=False, qkv_bias=True, output_bias=True, mlp_bias=True, activation="gelu",
    rotary_fraction=0.5,
)  # fmt: skip
MODEL = models.build(ModelConfig(**LLAMA))


@pytest.fixture
def folder(tmp_path):
    """A checkpoint in one file."""
    with jax.set_mesh(checkpoints.one_device()):
        save(tmp_path / "model", MODEL, models.init(MODEL, jax.random.key(0)))
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def unsaid():
    notes.say_once.cache_clear()


def edit(folder, change):
    """Rewrites the one file with tensors that `change` has edited."""
    found = {name: np.array(stored.read()) for name, stored in tensors.scan(folder / hf_load.SINGLE).items()}
    change(found)
    tensors.write(folder / hf_load.SINGLE, {name: x.shape for name, x in found.items()}, "float32", found.__getitem__)


def shard(folder, parts):
    """Splits the one file into a file for each dict of names in `parts`, under an index; returns the index's weight_map."""
    found = {name: np.array(stored.read()) for name, stored in tensors.scan(folder / hf_load.SINGLE).items()}
    weight_map = {}
    for file, names in parts(list(found)).items():
        tensors.write(folder / file, {name: found[name].shape for name in names}, "float32", found.__getitem__)
        weight_map |= dict.fromkeys(names, file)
    (folder / hf_load.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def halves(names):
    return {"model-1.safetensors": names[:4], "model-2.safetensors": names[4:]}


def loaded(folder, model=MODEL):
    with jax.set_mesh(checkpoints.one_device()):
        return load(folder, model)


def test_tables_are_filled_up_with_rows_of_zeros(folder):
    params = jax.device_get(loaded(folder))
    for table in (params["embed"]["tokens"], params["head"]["kernel"]):
        assert table.shape == (MODEL.config.padded_vocab, 16) and not table[20:].any() and table[:20].any(1).all()


@pytest.mark.parametrize(("config", "head"), [(LLAMA, "lm_head.weight"), (NEOX, "embed_out.weight")], ids=["llama", "gpt_neox"])
def test_a_head_of_its_own_beside_a_tied_flag_is_refused_by_name(tmp_path, config, head):
    untied, tied = (models.build(ModelConfig(**config, tied=tied)) for tied in (False, True))
    with jax.set_mesh(checkpoints.one_device()):
        save(tmp_path / "model", untied, models.init(untied, jax.random.key(0)))
    with pytest.raises(ValueError, match=rf"tie_word_embeddings to true, but the file holds a {head} that is not .*to false to use it"):
        loaded(tmp_path / "model", tied)
    loaded(tmp_path / "model", untied)


def test_one_file_is_read_before_an_index_and_the_shards_are_named(folder, capsys):
    shard(folder, halves)  # of ones
    edit(folder, lambda found: found.update({"model.norm.weight": np.full(16, 3, np.float32)}))
    assert np.asarray(loaded(folder)["final_norm"]["scale"]).tolist() == [3.0] * 16
    told = capsys.readouterr().err
    assert "read from model.safetensors; not read: model-1.safetensors, model-2.safetensors, model.safetensors.index.json" in told


def test_files_that_the_index_does_not_name_are_named_once(folder, capsys):
    shard(folder, halves)
    (folder / hf_load.SINGLE).rename(folder / "consolidated.safetensors")
    for _ in range(2):
        loaded(folder)
    assert capsys.readouterr().err.count("not read: consolidated.safetensors") == 1


@pytest.mark.parametrize("outside", ["../model-1.safetensors", "/tmp/model-1.safetensors", "a/../../model-1.safetensors", "..\\model-1"])
def test_an_index_may_not_leave_its_folder(folder, outside):
    weight_map = shard(folder, halves)
    shutil.copy(folder / "model-1.safetensors", folder.parent)
    (folder / hf_load.SINGLE).unlink()
    weight_map = {name: outside if file == "model-1.safetensors" else file for name, file in weight_map.items()}
    (folder / hf_load.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match="names files outside its folder: " + re.escape(outside)):
        loaded(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {}}', "{", "[" * 99999])
def test_a_broken_index_is_named(folder, content):
    (folder / hf_load.SINGLE).unlink()
    (folder / hf_load.INDEX).write_text(content)
    with pytest.raises(ValueError, match="model.safetensors.index.json"):
        loaded(folder)


def test_a_tensor_in_two_files_is_refused(folder):
    shard(folder, lambda names: {"model-1.safetensors": names[:5], "model-2.safetensors": names[4:]})
    (folder / hf_load.SINGLE).unlink()
    with pytest.raises(ValueError, match="twice, in model-1.safetensors and in model-2.safetensors"):
        loaded(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_blamed_themselves(folder, value):
    def damage(found):
        found["model.layers.0.mlp.up_proj.weight"][3, 5] = value

    edit(folder, damage)
    with pytest.raises(ValueError, match=r"up_proj.weight in .*model.safetensors holds 1 numbers that are not finite.*another checkpoint"):
        loaded(folder)


def test_a_check_finds_what_is_wrong_without_reading_a_tensor(folder, monkeypatch):
    monkeypatch.setattr(tensors.Stored, "read", lambda _: pytest.fail("a tensor was read"))
    hf_load.check(folder, MODEL)
    file = folder / hf_load.SINGLE
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match="cut short"):
        hf_load.check(folder, MODEL)

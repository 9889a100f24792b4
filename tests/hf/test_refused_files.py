"""Files of a checkpoint that hold what no reader may guess at: keys that stand twice, special tokens that are none, other bytes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxalign.data.raw import notation
from jaxalign.data.text import tokenizer, tokenizer_files
from jaxalign.hf import load
from jaxalign.models import model as models
from jaxalign.paths import resolve
from jaxalign.suggest import closest


@pytest.mark.parametrize("reader", [notation.read_file, tokenizer_files.read_json])
def test_a_key_that_stands_twice_in_a_json_file_is_refused_and_a_bom_is_read(tmp_path, reader):
    file = tmp_path / "config.json"
    file.write_text('\ufeff{"a": {"b": 1}}', encoding="utf-8")
    assert reader(file) == {"a": {"b": 1}}
    file.write_text('{"a": {"b": 1, "b": 2}}', encoding="utf-8")
    with pytest.raises(ValueError, match="config.json.*the key 'b' stands twice"):
        reader(file)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"extra_special_tokens": "abc"}, "extra_special_tokens='abc' is no list of tokens"),
        ({"eos_token": ["</s>"]}, "eos_token=.* is no text of a token"),
        ({"eos_token": 2}, "eos_token=2 is no text of a token"),
        ({"pad_token": ["</s>"]}, "pad_token=.* is no text of a token"),
        ({"unk_token": False}, "unk_token=False is no text of a token"),
        ({"eos_token": {"special": True}}, "it has no content"),
    ],
)
def test_a_special_token_that_is_none_is_refused_with_its_file(tmp_path, settings, words):
    folder = tokenizer_folder(tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **settings}))
    with pytest.raises(ValueError, match=f"tokenizer_config.json.*{words}"):
        tokenizer_files.read(folder)


def test_a_stop_token_that_the_vocabulary_lacks_is_added_and_named_once(tmp_path, caplog):
    folder = tokenizer_folder(tmp_path)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|nope|>", "bos_token": "<s>", "pad_token": "<|pad|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    first, again = tokenizer.load(folder), tokenizer.load(folder)
    assert first.eos_id == again.eos_id == first.vocab_size - 2  # the other new one is the pad token, which nothing trains
    (message,) = caplog.messages
    assert "tokenizer.json: eos_token='<|nope|>' is not in the vocabulary" in message


def test_a_stop_token_that_the_settings_list_is_no_surprise(tmp_path, caplog):
    folder = tokenizer_folder(tmp_path)
    listed = {"512": {"content": "<|end|>", "special": True}}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "added_tokens_decoder": listed}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert tokenizer.load(folder).eos == "<|end|>" and not caplog.messages


def test_weights_of_whole_numbers_are_refused_before_they_are_read(tmp_path):
    for file in resolve("package:stories260k").glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(resolve("package:stories260k") / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    weights[name] = weights[name].astype(np.int32)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = models.build(load.load_config(tmp_path))
    with pytest.raises(ValueError, match=f"tensor {name} has dtype I32; convert the checkpoint to F32, BF16 or F16"):
        load.check(tmp_path, model)


def test_a_template_of_other_bytes_is_refused_with_its_file(tmp_path):
    folder = tokenizer_folder(tmp_path)
    (folder / "chat_template.jinja").write_bytes(b"{{ messages }}\xff")
    with pytest.raises(ValueError, match="chat_template.jinja is not UTF-8 text"):
        tokenizer_files.read(folder)


@pytest.mark.parametrize(("word", "name"), [("SFT", "sft"), ("Dpo", "dpo"), ("bfloat", "BFloat16"), ("xyz", None)])
def test_what_was_meant_is_found_in_letters_of_any_case(word, name):
    assert closest(word, ("sft", "wpo", "dpo", "BFloat16")) == name


def tokenizer_folder(tmp_path):
    """A folder with the vocabulary of the shipped model and no settings."""
    source = resolve("package:stories260k") / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes(source.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return tmp_path

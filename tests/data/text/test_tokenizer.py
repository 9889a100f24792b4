"""Tokenizers load from their files alone and give the published ids."""

import json
from pathlib import Path
import subprocess
import sys

import pytest
import tokenizers

from jaxalign.data.text import tokenizer


@pytest.fixture
def golden():
    """Texts and ids; the file itself specifies how it was made."""
    return json.loads((Path(__file__).parents[2] / "golden" / "tokenizer-stories260k.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("files", "published"),
    [
        ("gpt2", "gpt-2"),
        ("gpt2/encoder.json", "gpt-2"),
        ("gpt_neox_20b", "mpt"),
        ("llama2", "llama-spm"),
        ("llama2/tokenizer.model", "llama-spm"),
        ("llama2/tokenizer.model", "phi-3"),
    ],
)
def test_47_hard_strings_get_their_published_ids(shared, files, published):
    folder = shared / "tokenizers"
    texts = (folder / "goldens" / f"{published}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    ids = [[int(word) for word in line.split()] for line in (folder / "goldens" / f"{published}.out").read_text().split("\n")]
    loaded = tokenizer.load(folder / files)
    assert len(texts) == len(ids) == 47
    assert [loaded.encode(text) for text in texts] == ids


def test_texts_get_the_ids_that_transformers_gave_them(golden):
    loaded = tokenizer.load("package:stories260k")
    assert [loaded.encode(text) for text in golden["texts"]] == golden["ids"]


def test_special_tokens_and_the_chat_template_come_from_the_settings(make_tokenizer):
    loaded = tokenizer.load(make_tokenizer(chat_template="{{ messages }}"))
    assert (loaded.bos, loaded.bos_id, loaded.eos, loaded.eos_id, loaded.writes_bos) == ("<s>", 256, "</s>", 257, True)
    assert loaded.chat_template == "{{ messages }}"
    assert loaded.encode("a</s>") == [97, 257] and loaded.decode([97, 257]) == "a</s>"


def test_a_tokenizer_that_is_told_to_add_no_bos_adds_none(make_tokenizer):
    folder = make_tokenizer()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "add_bos_token": False}))
    assert not tokenizer.load(folder).writes_bos


def test_a_chat_template_file_wins_over_the_settings(make_tokenizer):
    folder = make_tokenizer(chat_template="old")
    (folder / "chat_template.jinja").write_text("new")
    assert tokenizer.load(folder).chat_template == "new"


def test_the_content_hash_follows_vocabulary_special_tokens_and_template(make_tokenizer):
    hashes = {
        tokenizer.load(make_tokenizer(name=name, **options)).content
        for name, options in (("a", {}), ("b", {"extra": ()}), ("c", {"chat_template": "x"}), ("d", {"eos": None}))
    }
    assert len(hashes) == 4
    assert tokenizer.load(make_tokenizer(name="e")).content in hashes


def test_a_continuation_gets_no_space_from_sentencepiece(shared):
    loaded = tokenizer.load(shared / "weights" / "stories260K" / "hf")
    assert loaded.adds_space
    assert loaded.decode(loaded.encode("Once") + loaded.encode_next(" upon a time")) == "Once upon a time"
    assert loaded.encode("Once") + loaded.encode_next(" upon") == loaded.encode("Once upon")
    assert loaded.decode(loaded.encode("Once") + loaded.encode_next("\n\nupon")) == "Once\n\nupon"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere", "no tokenizer at 'nowhere'"),
        ("nobody/nothing-here", "no path here and could not be fetched from the Hugging Face hub.*Check the name"),
        (None, "holds no tokenizer file"),
    ],
)
def test_a_tokenizer_that_is_not_there_is_refused_with_the_way_out(tmp_path, path, words):
    with pytest.raises(FileNotFoundError, match=words):
        tokenizer.load(path or tmp_path)


def test_a_special_token_that_the_vocabulary_lacks_is_added_as_transformers_adds_it(make_tokenizer):
    folder = make_tokenizer()
    before = tokenizer.load(folder).vocab_size
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    loaded = tokenizer.load(folder)
    assert (loaded.eos_id, loaded.vocab_size) == (before, before + 1) and loaded.encode("a<end>") == [97, before]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("tokenizer.json", "{", "tokenizer.json is not a tokenizer.json that can be read"),
        ("tokenizer.json", '{"model": 3}', "tokenizer.json is not a tokenizer.json that can be read"),
        ("tokenizer_config.json", '{"eos_token": ', "tokenizer_config.json is not valid JSON"),
        ("tokenizer_config.json", "[1]", "tokenizer_config.json holds a list, not a JSON object"),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"x": {"content": "a"}}}',
            "special tokens in .*tokenizer_config.json cannot be read",
        ),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "special tokens in .*tokenizer_config.json cannot be read"),
        ("tokenizer_config.json", '{"chat_template": [3]}', "chat_template in .* is neither a text nor a list"),
        ("tokenizer_config.json", '{"chat_template": {"default": 3}}', "chat_template in .* is neither a text nor a list"),
        ("special_tokens_map.json", "nonsense", "special_tokens_map.json is not valid JSON"),
        ("added_tokens.json", '{"<x>": ', "added_tokens.json is not valid JSON"),
    ],
)
def test_a_damaged_file_is_named(make_tokenizer, file, text, words):
    folder = make_tokenizer()
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=words):
        tokenizer.load(folder)


def test_the_data_code_imports_neither_torch_nor_transformers_nor_jax():
    heavy = ("torch", "tensorflow", "transformers", "datasets", "jax")
    code = f"import sys, jaxalign.prepare; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_added_tokens_that_are_there_change_nothing_and_ordinary_ones_are_refused(make_tokenizer):
    loaded = tokenizer.load(make_tokenizer())
    gained = loaded.with_added(("<a>", "<|im_end|>", "<a>"))
    assert gained.encode("<a>") == [loaded.vocab_size] and gained.vocab_size == loaded.vocab_size + 1
    assert gained.with_added(("<a>",)) is gained and loaded.with_added(("<|im_end|>",)) is loaded
    with pytest.raises(ValueError, match="'a' is an ordinary token of the vocabulary .id 97"):
        loaded.with_added(("<a>", "a"))
    with pytest.raises(ValueError, match="'e' is an ordinary token"):  # of sentencepiece, which writes a first "e" as another token
        tokenizer.load("package:stories260k").with_added(("e",))


def test_a_token_that_lies_unused_in_the_vocabulary_keeps_its_id():
    model = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "<": 1, ">": 2, "0": 3, "<0>": 4}, []))
    loaded = tokenizer.Tokenizer(model, {}, (), None, None, False, {})
    assert loaded.encode("<0>") == [1, 3, 2] and loaded.with_added(("<0>",)).encode("<0>") == [4]


def test_a_file_that_is_no_tokenizer_is_refused_with_those_that_are(tmp_path):
    (tmp_path / "README.md").write_text("# A model")
    with pytest.raises(ValueError, match=r"README.md is no tokenizer file; give a folder that holds one of tokenizer.json"):
        tokenizer.load(tmp_path / "README.md")

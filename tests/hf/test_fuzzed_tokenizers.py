"""A tokenizer folder with a mutated file is refused with the file's name, or read as transformers reads it: never a traceback."""

import json
import random

import pytest
import tiny_data

from jaxalign.data.text import tokenizer as tokenizers

TEXT = "ab cd. <|im_start|>user\n7\u00e9</s>"
OWN = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
WRONG = (None, True, 3, -1, 10**12, "", "x", "<|im_end|>", [], ["a"], {}, {"content": "</s>"}, {"content": 3})


def mutated(folder, seed):
    """Changes one value or one byte of one file of a tokenizer folder; returns the file."""
    draw = random.Random(seed)
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": {"content": "<s>"}}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 257, "bos_token_id": 256}))
    file = folder / draw.choice(("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"))
    if draw.random() < 0.5:
        values = json.loads(file.read_text())
        key = draw.choice(sorted(values))
        values[key] = draw.choice(WRONG)
        file.write_text(json.dumps(values))
    else:
        content = bytearray(file.read_bytes())
        at = draw.randrange(len(content))
        content[at : at + draw.choice((0, 1, 40))] = draw.choice((b"", b"}", b'"', b"\xff", b"0"))
        file.write_bytes(content)
    return file


def read(folder):
    """(ids of TEXT as we read the folder, or None, and the message that refuses it)"""
    try:
        return tokenizers.load(folder).encode(TEXT), ""
    except (ValueError, FileNotFoundError) as error:
        return None, str(error)


def as_transformers(folder):
    """The ids that transformers gives, None where it cannot read the folder: it has many errors."""
    transformers = pytest.importorskip("transformers")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder)(TEXT, add_special_tokens=False)["input_ids"]
    except Exception:
        return None


def check(tmp_path, seed):
    folder = tiny_data.write_tokenizer(tmp_path / f"t{seed}", chat_template=OWN)
    file = mutated(folder, seed)
    ids, message = read(folder)
    if ids is None:
        return str(folder) in message or file.name in message
    return ids and as_transformers(folder) in (None, ids)


@pytest.mark.parametrize("seed", range(10))
def test_a_mutated_tokenizer_is_refused_by_file_or_read_as_transformers_reads_it(tmp_path, seed):
    assert check(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 110))
def test_many_mutated_tokenizers_are_refused_by_file_or_read_as_transformers_reads_them(tmp_path, seed):
    assert check(tmp_path, seed)

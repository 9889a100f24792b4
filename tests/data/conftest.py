"""A byte-level tokenizer made on the spot, files of rows, and the folder of real material (tests that need it skip without)."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from jaxalign.data.tokenizer_files import bytes_to_unicode

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def shared():
    """The folder of real data sets, tokenizers and templates."""
    if not SHARED.is_dir():
        pytest.skip("the real data sets are not here")
    return SHARED


@pytest.fixture
def make_tokenizer(tmp_path):
    """Writes a byte-level tokenizer folder: id b is byte b, the special tokens follow from 256 on."""

    def make(*, name="tokenizer", bos="<s>", eos="</s>", writes_bos=True, chat_template=None, extra=("<|im_start|>", "<|im_end|>")):
        folder = tmp_path / name
        folder.mkdir()
        model = tokenizers.Tokenizer(models.BPE({character: byte for byte, character in bytes_to_unicode().items()}, []))
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        model.add_special_tokens([token for token in (bos, eos, *extra) if token])
        if bos and writes_bos:
            model.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, model.token_to_id(bos))])
        model.save(str(folder / "tokenizer.json"))
        settings = {"bos_token": bos, "eos_token": eos, "chat_template": chat_template}
        (folder / "tokenizer_config.json").write_text(json.dumps({key: value for key, value in settings.items() if value}))
        return folder

    return make


@pytest.fixture
def write_jsonl(tmp_path):
    """Writes rows as a .jsonl file and returns its path as text."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write

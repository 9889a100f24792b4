"""A byte-level tokenizer made on the spot, files of rows, and the folder of real material (tests that need it skip without)."""

import json
from pathlib import Path

import pytest
from tiny_data import write_tokenizer

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

    def make(*, name="tokenizer", **options):
        return write_tokenizer(tmp_path / name, **options)

    return make


@pytest.fixture
def write_jsonl(tmp_path):
    """Writes rows as a .jsonl file and returns its path as text."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write

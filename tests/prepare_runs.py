"""What the tests of prepare share: a folder of pairs with a tokenizer, a run over it, and the bytes that it left."""

import numpy as np
from tiny_data import write_pairs, write_tokenizer

from jaxalign.data.prepared import prepare as make_prepared

OPTIONS = {"template": "plain", "row_tokens": 64, "processes": 1, "quiet": True}


def make_folder(folder):
    """Fills a folder with 300 pairs as pairs.jsonl and a byte-level tokenizer."""
    write_tokenizer(folder / "tokenizer")
    write_pairs(folder / "pairs.jsonl", 300)
    return folder


def run(folder, source=None, **options):
    source = {"path": str(folder / "pairs.jsonl"), **(source or {})}
    return make_prepared(source, tokenizer=str(folder / "tokenizer"), out_root=folder / "out", **{**OPTIONS, **options})


def contents(folder):
    files = [*folder.parent.glob("*.npy"), *folder.glob("*.npy")]
    return {path.name: np.load(path).tobytes() for path in files}

"""Prints how fast `prepare` makes HH rows beside `datasets.map` with the same tokenizer, in CPU seconds of one process.

    python tests/benchmarks/prepare.py HH_FILE TOKENIZER_FOLDER [ROWS]

Both read the same rows. `datasets.map` encodes the two dialogues of a row whole, in batches, into input_ids and attention_mask, which is
the least that a trainer of preferences needs; `prepare` renders, encodes, checks, packs and writes them. They alternate three times, and
the ratio is that of the best times.
"""

import os
from pathlib import Path
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"


def ours(file: str, tokenizer: str, rows: int) -> None:
    """Prepares the first rows of an HH file into a new folder."""
    from jaxalign.data.prepared import prepare

    with tempfile.TemporaryDirectory() as out:
        source = {"path": file, "limit": rows}
        prepare(source, tokenizer=tokenizer, template="hh", row_tokens=1024, out_root=out, processes=1, quiet=True)


def theirs(file: str, tokenizer: str, rows: int) -> None:
    """Encodes the same rows with `datasets.map`, chosen and rejected, and writes them to its cache."""
    import datasets
    import tokenizers

    model = tokenizers.Tokenizer.from_file(str(Path(tokenizer) / "tokenizer.json"))

    def encode(batch):
        columns = {}
        for side in ("chosen", "rejected"):
            encoded = model.encode_batch(batch[side])
            columns[f"{side}_input_ids"] = [one.ids for one in encoded]
            columns[f"{side}_attention_mask"] = [one.attention_mask for one in encoded]
        return columns

    with tempfile.TemporaryDirectory() as cache:
        data = datasets.load_dataset("json", data_files=file, split=f"train[:{rows}]", cache_dir=cache)
        data.map(encode, batched=True, remove_columns=data.column_names)


def seconds(function, *arguments) -> float:
    """CPU seconds, of all threads, of one call."""
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def main(file: str, tokenizer: str, rows: str = "1500") -> None:
    """Runs both in turn and prints their best times."""
    import datasets

    datasets.disable_progress_bars()
    times = [(seconds(theirs, file, tokenizer, int(rows)), seconds(ours, file, tokenizer, int(rows))) for _ in range(3)]
    map_s, prepare_s = (min(column) for column in zip(*times, strict=True))
    print(f"datasets.map {map_s:.2f} s, prepare {prepare_s:.2f} s: prepare is {map_s / prepare_s:.2f} times as fast")


if __name__ == "__main__":
    main(*sys.argv[1:])

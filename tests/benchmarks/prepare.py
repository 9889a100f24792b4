"""Prints how fast `prepare` makes HH rows beside `datasets.map` with the same tokenizer, in CPU seconds of one process.

    python tests/benchmarks/prepare.py HH_FILE TOKENIZER_FOLDER [ROWS]

All read the same rows. `prepare` parses the dialogues, renders, encodes, checks, packs and writes them. `datasets.map` does it twice:
"as trainers do", where the prompt and both answers of a row are rendered with the same chat template and encoded, row by row; and
"encoding alone", where the raw dialogues are encoded whole, in batches, and nothing is parsed, rendered or cut. They alternate three
times, and the ratios are those of the best times.
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


def encoding_alone(file: str, tokenizer: str, rows: int) -> None:
    """Encodes the same rows with `datasets.map`, chosen and rejected whole, and writes them to its cache."""
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


def as_trainers_do(file: str, tokenizer: str, rows: int) -> None:
    """Renders and encodes prompt, chosen and rejected of the same rows with `datasets.map` and transformers."""
    import datasets
    import transformers

    from jaxalign.data.text import templates

    model = transformers.PreTrainedTokenizerFast(tokenizer_file=str(Path(tokenizer) / "tokenizer.json"))
    model.chat_template = (Path(templates.__file__).parent / "chat" / "hh.jinja").read_text()

    def turns(text):
        pieces = text.split("\n\n")[1:]
        roles = {"Human": "user", "Assistant": "assistant"}
        messages = []
        for piece in pieces:
            name, colon, content = piece.partition(":")
            if colon and name in roles:
                messages.append({"role": roles[name], "content": content.strip()})
            elif messages:
                messages[-1]["content"] += f"\n\n{piece}"
        return messages

    def encode(row):
        asked = model.apply_chat_template(turns(row["chosen"])[:-1], tokenize=False, add_generation_prompt=True)
        columns = {"prompt_input_ids": model(asked, add_special_tokens=False)["input_ids"]}
        for side in ("chosen", "rejected"):
            whole = model.apply_chat_template(turns(row[side]), tokenize=False)
            columns[f"{side}_input_ids"] = model(whole.removeprefix(asked), add_special_tokens=False)["input_ids"]
        return columns

    with tempfile.TemporaryDirectory() as cache:
        data = datasets.load_dataset("json", data_files=file, split=f"train[:{rows}]", cache_dir=cache)
        data.map(encode, remove_columns=data.column_names)


def seconds(function, *arguments) -> float:
    """CPU seconds, of all threads, of one call."""
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def main(file: str, tokenizer: str, rows: str = "1500") -> None:
    """Runs all in turn and prints their best times."""
    import datasets

    datasets.disable_progress_bars()
    ways = (ours, as_trainers_do, encoding_alone)
    times = [[seconds(way, file, tokenizer, int(rows)) for way in ways] for _ in range(3)]
    prepare_s, *others = (min(column) for column in zip(*times, strict=True))
    for way, map_s in zip(ways[1:], others, strict=True):
        name = way.__name__.replace("_", " ")
        print(f"datasets.map, {name}: {map_s:.2f} s; prepare {prepare_s:.2f} s: prepare is {map_s / prepare_s:.2f} times as fast")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The version of the format of prepared rows is raised whenever the same source gives other rows: golden/prepared_rows.json holds both.

The golden file holds the versions and a SHA-256 of the arrays of three tiny sets. To write it anew, after GROUPS_FORMAT or PLAN_FORMAT was
raised: `python tests/data/test_golden_rows.py` from the root of the repository, with tests in PYTHONPATH.
"""

import hashlib
import json
from pathlib import Path
import tempfile

import numpy as np
import prepare_runs
from tiny_data import CHATML, write_pairs, write_tokenizer

from jaxalign.data import prepared
from jaxalign.data.rows import store

GOLDEN = Path(__file__).parents[1] / "golden" / "prepared_rows.json"
TURNS = [{"role": "user", "content": "Name?"}, {"role": "assistant", "content": "Ann."}]
LISTS = [
    {"prompt": f"q{i}", "completions": ["a" * (i + 1), "b"], "scores": [i, 10 - i], "system": "s" if i % 2 else None} for i in range(11)
]
CONVERSATIONS = [{"messages": [*TURNS, {"role": "user", "content": "And?" * i}, {**TURNS[1], "content": "Bob." * i}]} for i in range(1, 9)]


def digests(folder):
    """{name of a set: SHA-256 of its arrays}, made in an empty folder."""
    write_tokenizer(folder / "tokenizer", chat_template=CHATML)
    write_pairs(folder / "pairs.jsonl", 40)
    made = {"pairs": prepare_runs.run(folder, mismatched=True)}
    for name, rows, source, options in (
        ("lists", LISTS, {"score_range": (0, 10), "keep_columns": {"kept": "scores"}}, {}),
        ("conversations", CONVERSATIONS, {}, {"train_turns": "all", "row_tokens": 128}),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"path": str(folder / f"{name}.jsonl"), **source}
        made[name] = prepare_runs.run(folder, source, **{"template": "auto", "row_tokens": 192, **options})
    return {name: _digest(path) for name, path in made.items()}


def _digest(path):
    groups = store.read(path).groups
    assert len(groups)
    arrays = sorted([*path.parent.glob("*.npy"), *path.glob("*.npy")], key=lambda file: file.name)
    digest = hashlib.sha256()
    for file in arrays:
        array = np.load(file)
        digest.update(f"{file.name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def versions():
    return {"groups": prepared.GROUPS_FORMAT, "plan": prepared.PLAN_FORMAT}


def test_other_rows_of_the_same_source_come_with_another_version_of_the_format(tmp_path):
    golden = json.loads(GOLDEN.read_text())
    assert versions() == golden["versions"], "write the golden file anew, as this file says at its top"
    assert digests(tmp_path) == golden["digests"], "raise GROUPS_FORMAT or PLAN_FORMAT in data/prepared.py, then write the golden file anew"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        content = {"made by": "tests/data/test_golden_rows.py", "versions": versions(), "digests": digests(Path(folder))}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")

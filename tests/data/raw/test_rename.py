"""Columns that `rename` covers, takes a part of, or leaves out where no row has them are named."""

import json

import prepare_runs
import pytest

from jaxalign.data import summary
from jaxalign.data.raw import formats, sources
from jaxalign.data.raw.records import Record


@pytest.mark.parametrize(
    ("row", "rename", "unread"),
    [
        ({"question": "q", "prompt": "REAL"}, {"prompt": "question"}, ["prompt (replaced by rename)"]),
        ({"question": "q", "prompt": "q"}, {"prompt": "question"}, []),
        ({"question": "q", "prompt": None}, {"prompt": "question"}, []),
        ({"m": {"q": "q", "lang": "en", "more": {"id": 3}}}, {"prompt": "m.q"}, ["m.lang", "m.more"]),
        ({"m": {"q": "q", "more": {"id": 3, "n": 4}}}, {"prompt": "m.q", "n": "m.more.n"}, ["m.more.id", "n"]),
        ({"prompt": {"text": "q", "id": 3}}, {"prompt": "prompt.text"}, ["prompt.id (replaced by rename)"]),
        ({"texts": ["q", "other", "third"]}, {"prompt": "texts.0"}, ["texts[]"]),
        ({"texts": ["other", "q"]}, {"prompt": "texts.-1", "n": "texts.0"}, ["n"]),
        ({"m.q": "q", "m": {"q": "other"}}, {"prompt": "m.q"}, []),
    ],
)
def test_what_a_renamed_column_covers_or_leaves_is_named(write_jsonl, row, rename, unread):
    rows = sources.read({"path": write_jsonl([{**row, "completion": "c"}]), "rename": rename})
    record = Record(rows[0], rows.renamed)
    assert formats.to_example(record, name="completion").prompt == "q" and record.unread() == unread


def test_columns_that_change_places_cover_nothing(write_jsonl):
    rename = {"chosen": "rejected", "rejected": "chosen"}
    rows = sources.read({"path": write_jsonl([{"prompt": "p", "chosen": "c", "rejected": "r"}]), "rename": rename})
    record = Record(rows[0], rows.renamed)
    assert formats.to_example(record, name="paired").responses == ("r", "c") and record.unread() == []


def test_a_column_to_leave_out_that_no_row_has_is_named_with_what_may_be_meant(tmp_path):
    folder = prepare_runs.make_folder(tmp_path)
    rows = [{"prompt": f"p{i}", "completion": "c", **({"context": "x"} if i == 2 else {})} for i in range(3)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = prepare_runs.run(folder, {"path": str(folder / "pairs.jsonl"), "rename": {"contxt": None}})
    assert "  rename leaves out the column contxt (did you mean context?), which no row has; mend or remove it" in summary.report(made)
    made = prepare_runs.run(folder, {"path": str(folder / "pairs.jsonl"), "rename": {"context": None}})
    assert "rename" not in "\n".join(summary.report(made))

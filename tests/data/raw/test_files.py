"""Tables, several files and globs are sources; one bad line is a row error, and what a file may fill of the memory is bounded."""

import gzip
import json

import pytest

from jaxalign.data.raw import files, libraries, sources
from jaxalign.data.raw.counts import RowError

ROWS = [{"prompt": f"p{i}", "completion": 'with "quotes", commas\nand lines', "score": str(i)} for i in range(5)]


def rows_of(source):
    rows = sources.read(source)
    return [rows.read(i) for i in range(len(rows))]


def table(delimiter):
    def quoted(text):
        return '"' + text.replace('"', '""') + '"'

    return "\r\n".join(delimiter.join(quoted(cell) for cell in cells) for cells in (ROWS[0], *(row.values() for row in ROWS)))


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv", ";"), ("a.csv.gz", ",")])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_tables_are_read_with_their_quotes(tmp_path, name, delimiter, mark):
    data = mark + table(delimiter).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert rows_of({"path": str(tmp_path / name)}) == ROWS


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("a.tsv.csv", "a,b\n1,2\n", [{"a": "1", "b": "2"}]),
        ("a.csv.TSV", "a,x\tb\n1\t2\n", [{"a,x": "1", "b": "2"}]),
        ("a.csv", "a;b\n1,5;2\n", [{"a": "1,5", "b": "2"}]),
        ("a.csv", "a;x,b\n1,2\n", [{"a;x": "1", "b": "2"}]),
        ("a.csv", 'a, b\n1, "2, 3"\n', [{"a": "1", "b": "2, 3"}]),
        ("a.csv", 'a, "b"\n1, 2\n', [{"a": "1", "b": "2"}]),
        ("a.csv", 'a,b\nx, "y"\nz, v\n', [{"a": "x", "b": "y"}, {"a": "z", "b": "v"}]),
        ("a.csv", 'a,b\n1," ""2"""\n3, 4\n', [{"a": "1", "b": ' "2"'}, {"a": "3", "b": " 4"}]),
        ("a.csv", 'a,b\n1, "2" and 3\n', [{"a": "1", "b": ' "2" and 3'}]),
    ],
)
def test_the_suffix_and_the_first_line_decide_what_stands_between_cells(tmp_path, name, text, rows):
    (tmp_path / name).write_text(text)
    assert rows_of({"path": str(tmp_path / name)}) == rows


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"data": [{"a": 1}], "train": [{"a": 2}]}, "holds the lists data, train; data alone would be read"),
        ({"train": [{"a": 1}], "test": [{"a": 2}]}, "must hold a list of rows"),
        ({"data": {"a": 1}}, "must hold a list of rows"),
        ({"data": [{"a": 1}], "validation": {"rows": [{"a": 2}]}}, "holds the lists data, validation"),
        ({"data": [{"a": 1}], "validation": [[{"a": 2}]]}, "holds the lists data, validation"),
    ],
)
def test_a_json_file_of_several_lists_is_refused(tmp_path, value, words):
    (tmp_path / "a.json").write_text(json.dumps(value, indent=1))
    with pytest.raises(ValueError, match=words):
        sources.read({"path": str(tmp_path / "a.json")})


def test_a_json_file_with_facts_beside_its_rows_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": "1.0", "labels": ["x"], "data": ROWS}))
    assert rows_of({"path": str(tmp_path / "a.json")}) == ROWS
    pandas = {"schema": {"fields": [{"name": "index", "type": "integer"}], "primaryKey": ["index"]}, "data": ROWS}
    (tmp_path / "b.json").write_text(json.dumps(pandas))
    assert rows_of({"path": str(tmp_path / "b.json")}) == ROWS


def test_a_byte_of_a_table_that_is_not_utf_8_is_refused_with_its_line(tmp_path):
    (tmp_path / "a.csv").write_bytes("a,b\n1,2\ncaf\xe9,3\n".encode("latin1"))
    rows = sources.read({"path": str(tmp_path / "a.csv")})
    assert rows[0] == {"a": "1", "b": "2"}
    with pytest.raises(RowError, match="a.csv, line 3: byte 0xe9 is not UTF-8; convert the file.*iconv") as error:
        rows[1]
    assert error.value.rule == "encoding"


def test_several_files_and_globs_are_one_source(tmp_path, write_jsonl):
    one, two = write_jsonl(ROWS[:2], "a.jsonl"), write_jsonl(ROWS[2:], "b.jsonl")
    several = sources.read({"path": (one, two)})
    assert [several[i] for i in range(5)] == ROWS and several.name.endswith("and 1 more")
    assert rows_of({"path": str(tmp_path / "*.jsonl")}) == ROWS
    assert sources.read({"path": str(tmp_path / "?.jsonl")}).identity == several.identity != sources.read({"path": (two, one)}).identity
    assert rows_of({"path": (one, two), "limit": 3}) == ROWS[:3]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_under_the_name_of_a_list_and_a_byte_order_mark_are_read(tmp_path, end):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + end.join(json.dumps(row) for row in ROWS).encode())
    assert rows_of({"path": str(tmp_path / "a.json")}) == ROWS


BAD_LINES = {
    "json": b'{"a": ',
    "encoding": '{"a": "caf\xe9"}'.encode("latin1"),
    "nested": b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}",
    "repeated_key": b'{"a": 1, "b": {"c": 1, "c": 2}}',
    "wrong_type": b"[1]",
}


@pytest.mark.parametrize("rule", BAD_LINES)
def test_one_bad_line_is_a_row_error(tmp_path, rule):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 0}\n' + BAD_LINES[rule] + b'\n{"a": 2}\n')
    first, bad, last = rows_of({"path": str(tmp_path / "a.jsonl")})
    assert (first, last) == ({"a": 0}, {"a": 2}) and isinstance(bad, RowError) and bad.rule == rule


def test_an_integer_of_thousands_of_digits_and_a_missing_column_are_row_errors(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": ' + b"9" * 5000 + b'}\n{"b": 2}\n{"a": 1}\n')
    rows = rows_of({"path": str(tmp_path / "a.jsonl"), "rename": {"c": "a"}})
    assert [row.rule if isinstance(row, RowError) else row["c"] for row in rows] == ["json", "missing_column", 1]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_line_beyond_the_limit_is_a_row_error(tmp_path, monkeypatch, name):
    monkeypatch.setattr(files, "LINE_BYTES", 1000)
    data = b'{"a": 0}\n{"a": "' + b"x" * 3_000_000 + b'"}\n{"a": 2}\n'
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    monkeypatch.setattr(files, "EXPANSION", 10_000)
    first, bad, last = rows_of({"path": str(tmp_path / name)})
    assert (first, last) == ({"a": 0}, {"a": 2}) and bad.rule == "line_too_long"


def test_a_file_that_expands_beyond_all_bounds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "EXPANSION_BYTES", 1 << 16)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"0" * (8 << 20)))
    with pytest.raises(ValueError, match="unpacks to more than 200 times its size"):
        sources.read({"path": str(tmp_path / "a.jsonl.gz")})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PAR1xxxx", "no text: it is a parquet file; name it .parquet"),
        (gzip.compress(b"{}", mtime=0), "name it .gz"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (b'{"a": "\0"}', "binary data"),
    ],
)
def test_a_file_that_is_no_text_is_refused_as_what_it_is(tmp_path, data, words):
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(ValueError, match=words):
        sources.read({"path": str(tmp_path / "a.jsonl")})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('a,b\n1,2\n"3,4\n', "line 3.*in quotes"),
        ("a,a\n1,2\n", "name every column once"),
        ("a,\n1,2\n", "name every column once"),
        (",a\n0,x\n", "is it pandas' index.*index=False"),
    ],
)
def test_a_table_that_cannot_be_told_apart_is_refused(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        sources.read({"path": str(tmp_path / "a.csv")})


def test_a_row_of_a_table_with_too_many_cells_is_a_row_error(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,4,5\n")
    good, bad = rows_of({"path": str(tmp_path / "a.csv")})
    assert good == {"a": "1", "b": "2"} and bad.rule == "cells"


def test_a_limit_streams_from_the_hub_and_a_slice_does_not(monkeypatch):
    import datasets

    asked = []

    def load(name, config, **options):
        asked.append(options)
        data = datasets.Dataset.from_list(ROWS)
        return data.to_iterable_dataset() if options.get("streaming") else data

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert rows_of({"hf": "a/b", "split": "train", "limit": 2}) == ROWS[:2]
    assert rows_of({"hf": "a/b", "split": "train[1:]", "limit": 2}) == ROWS[1:3]
    assert [options.get("streaming", False) for options in asked] == [True, False]
    first, second = (libraries.hub({"hf": "a/b", "limit": limit}, "train", whole=True)[1] for limit in (2, 3))
    assert first != second

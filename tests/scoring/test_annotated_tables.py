"""`annotate --rows` of tables: what JSON has no word for is written as text or a number, or refused before anything is scored."""

import datetime
from decimal import Decimal
import json

import pyarrow.parquet
import pytest

from jaxalign import annotate
from jaxalign.data.raw import sources
from jaxalign.data.raw.sources import Rows

COUNTING = """
def score(prompts, completions, metadata):
    with open({file!r}, "a") as file:
        file.write("called ")
    return [float(len(text)) for text in completions]
"""


def parquet(table, folder):
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


def saved(table, folder):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset(table).save_to_disk(str(folder / "rows"))
    return folder / "rows"


def table_of_dates():
    """Two rows with a column of each kind that JSON has no word for."""
    there = datetime.datetime(2024, 2, 29, 12, 30, 1, 500)
    columns = dict(
        prompt=["q", "r"], completion=["abc", "d"], made=[there, None], day=[there.date()] * 2, hour=[there.time()] * 2,
        zoned=[there.replace(tzinfo=datetime.UTC)] * 2, took=[datetime.timedelta(seconds=1.5)] * 2, price=[Decimal("0.25")] * 2,
        info=[dict(seen=[there])] * 2,
    )  # fmt: skip
    return pyarrow.table(columns)


@pytest.mark.parametrize("write", [parquet, saved])
def test_a_table_with_dates_gets_its_scores_and_the_dates_are_text(tmp_path, write):
    rows, moment = write(table_of_dates(), tmp_path), "2024-02-29T12:30:01.000500"
    assert annotate.main(["--rows", str(rows), "--out", str(tmp_path / "out.jsonl"), "--reward", "length"]) == 0
    day = dict(day="2024-02-29", hour="12:30:01.000500", zoned=f"{moment}+00:00", took=1.5, price=0.25, info=dict(seen=[moment]))
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        dict(prompt="q", completion="abc", made=moment, **day, reward=3.0),
        dict(prompt="r", completion="d", made=None, **day, reward=1.0),
    ]


@pytest.mark.parametrize("flags", [[], ["--pairs"]])
def test_a_column_that_no_line_can_hold_is_told_before_anything_is_scored(flags, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(COUNTING.format(file=str(tmp_path / "calls")))
    row = dict(prompt="q", responses=["abc", "d"], picture=object())
    monkeypatch.setattr(sources, "read", lambda _: Rows([row], name="rows", identity="0"))
    out = ["--rows", "pictures", "--out", str(tmp_path / "out.jsonl")]
    assert annotate.main([*out, "--reward", f"{tmp_path / 'mine.py'}:score", *flags]) == 1
    error = capsys.readouterr().err
    assert "pictures: the column 'picture' cannot be written as JSON: Object of type object" in error
    assert not (tmp_path / "calls").exists() and not list(tmp_path.glob("out*"))

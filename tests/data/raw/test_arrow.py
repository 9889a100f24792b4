"""Rows of arrow tables hold what their writer put in: no fields of other rows' calls, no end of the run at one odd date."""

import math

import pyarrow
import pyarrow.parquet
import pytest

from jaxalign.data.raw import detect, formats, sources
from jaxalign.data.raw.counts import RowError

TOOLS = [{"name": "f", "parameters": {"a": {"type": "string"}}}, {"name": "g", "parameters": {"b": {"type": "integer", "least": 1}}}]


def calling(name, arguments):
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}


def conversation(name, arguments):
    return {"messages": [{"role": "user", "content": "p"}, calling(name, arguments)], "tools": TOOLS}


def written(folder, table):
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    return sources.read({"path": str(folder / "rows.parquet")})


def saved(folder, rows):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).save_to_disk(str(folder / "saved"))
    return sources.read({"path": str(folder / "saved")})


@pytest.mark.parametrize("save", [lambda folder, rows: written(folder, pyarrow.Table.from_pylist(rows)), saved])
def test_calls_of_several_tools_keep_their_own_arguments(tmp_path, save):
    given = [conversation("f", {"a": "1"}), conversation("g", {"b": 2, "deep": [{"c": 1}, {"d": 2}]})]
    rows = save(tmp_path, given)
    for number, row in enumerate(given):
        example = formats.to_example(rows[number], name=detect.detect(rows[number])[0])
        assert example.responses[0][-1]["tool_calls"] == row["messages"][1]["tool_calls"] and list(example.tools) == TOOLS


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_call_with_a_number_that_json_lacks_refuses_its_row(value):
    with pytest.raises(RowError, match="what JSON cannot write") as error:
        formats.to_example(conversation("f", {"a": [value]}), name="messages")
    assert error.value.rule == "wrong_type"


def test_a_date_beyond_the_calendar_refuses_its_row_alone(tmp_path):
    table = pyarrow.table({"prompt": ["p", "q"], "completion": ["c", "d"], "at": pyarrow.array([10**15, 0], pyarrow.timestamp("s"))})
    rows = written(tmp_path, table)
    bad, good = rows.read(0), rows.read(1)
    assert isinstance(bad, RowError) and bad.rule == "wrong_type" and "rows.parquet: row 0 has a value in at" in str(bad)
    assert good == {"prompt": "q", "completion": "d", "at": "1970-01-01T00:00:00"}


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has two columns of the name 'a'"):
        written(tmp_path, pyarrow.Table.from_arrays([pyarrow.array(["x"]), pyarrow.array(["y"])], names=["a", "a"]))

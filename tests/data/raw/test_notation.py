"""Lists and objects that columns hold as text are read by one parser; what Python would drop of them refuses the row."""

import pytest

from jaxalign.data.raw import arrow, detect, files, formats, messages
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.records import Record


def convert(row):
    record = Record(row)
    return formats.to_example(record, name=detect.detect(row)[0]), record


@pytest.mark.parametrize("written", ["['good', 'bad']", '["good", "bad"]'])
def test_a_list_of_answers_written_as_text_is_a_ranking(written):
    assert convert({"prompt": "p", "responses": written})[0].responses == ("good", "bad")
    assert convert({"prompt": "p", "responses": written, "scores": "[0.5, 1]"})[0].rewards == (0.5, 1.0)


def test_a_list_written_where_one_answer_stands_is_named():
    assert set(convert({"prompt": "p", "chosen": '["ok"]', "rejected": "['no']"})[1].changed) == {"written_list"}


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"prompt": "p", "responses": "['good' 'bad']"}, "written_list"),
        ({"prompt": "p", "responses": ["a", None]}, "empty_response"),
        ({"messages": '[{"role": "user", "content": "a", "content": "b"}]'}, "repeated_key"),
        ({"messages": "[{'role': 'user', 'content': 'a', 'content': 'b'}]"}, "repeated_key"),
        ({"prompt": "p", "completion": "c", "tools": '[{"name": "f", "name": "g"}]'}, "repeated_key"),
    ],
)
def test_what_a_text_would_lose_refuses_the_row(row, rule):
    with pytest.raises(RowError) as error:
        convert(row)
    assert error.value.rule == rule


def test_arguments_of_a_call_are_read_where_they_stand_and_other_fields_are_named():
    unread = set()
    call = {"function": {"name": "f", "arguments": None, "parameters": {"b": 2}}, "index": 3}
    read = messages.read_message({"role": "assistant", "tool_calls": [call]}, "messages", unread)
    assert read["tool_calls"][0]["function"]["arguments"] == {"b": 2} and unread == {"messages[].tool_calls[].index"}
    call["function"]["arguments"] = {"a": 1}
    with pytest.raises(RowError, match="two different fields"):
        messages.read_message({"role": "assistant", "tool_calls": [call]}, "messages", unread)
    assert arrow.unfilled({"arguments": {"a": 1, "b": None}, "c": None}) == {"arguments": {"a": 1}, "c": None}


def test_a_file_that_is_named_twice_is_refused(tmp_path):
    (tmp_path / "ok.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="twice"):
        files.paths_of((str(tmp_path / "ok.jsonl"), str(tmp_path / "ok*.jsonl")))

"""System texts and tools reach the model; media that it cannot see refuse the row."""

import json

import pytest

from jaxalign.data.raw import detect, formats
from jaxalign.data.raw.counts import RowError

PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
TOOL = {"name": "get_time", "description": "d"}
SYSTEM, USER = {"role": "system", "content": "s"}, {"role": "user", "content": "p"}


def convert(row):
    return formats.to_example(row, name=detect.detect(row)[0])


@pytest.mark.parametrize(
    "row",
    [
        {**PAIR, "system": "s"},
        {**PAIR, "system_prompt": "s", "system": ""},
        {**PAIR, "prompt": [USER], "system": "s"},
        {**PAIR, "prompt": [SYSTEM, USER], "system": "s"},
        {"chosen": [USER, {"role": "assistant", "content": "c"}], "rejected": [USER, {"role": "assistant", "content": "r"}], "system": "s"},
        {"prompt": "p", "completion": "c", "label": True, "system": "s"},
        {"prompt": "p", "responses": ["a", "b"], "system": "s"},
        {"messages": [USER, {"role": "assistant", "content": "c"}], "system": "s"},
    ],
)
def test_a_system_column_opens_the_conversation(row):
    example = convert(row)
    assert example.prompt == (SYSTEM, USER)
    assert all(response[0]["role"] == "assistant" for response in example.responses)


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL]), TOOL, [{"type": "function", "function": TOOL}]])
def test_tools_are_read_as_lists_and_as_json_text(tools):
    (tool,) = convert({**PAIR, "tools": tools}).tools
    assert tool.get("function", tool) == TOOL


def test_no_tools_are_no_tools():
    assert [convert({**PAIR, "tools": tools}).tools for tools in (None, [], "", " ")] == [()] * 4


@pytest.mark.parametrize(
    ("columns", "rule", "words"),
    [
        ({"system": ["s"]}, "system", "system is list"),
        ({"system": "s", "system_prompt": "t"}, "system", "system and system_prompt differ"),
        ({"system": "s", "prompt": [{**SYSTEM, "content": "t"}, USER]}, "system", "another system text"),
        ({"tools": "[no"}, "tools", "not valid JSON"),
        ({"tools": "[" * 100_000}, "tools", "not valid JSON"),
        ({"tools": ["get_time"]}, "tools", "list of tools, each a dict with a name"),
        ({"tools": [TOOL], "functions": [TOOL]}, "tools", "both hold tools"),
        ({"images": ["a.png"]}, "images", "has images"),
        ({"audio": {"path": "a.wav"}}, "audio", "has audio"),
    ],
)
def test_what_the_model_cannot_be_shown_refuses_the_row_by_name(columns, rule, words):
    with pytest.raises(RowError, match=words) as error:
        convert({**PAIR, **columns})
    assert error.value.rule == rule

"""Messages of every spelling become the same few fields; a field that nothing reads is named, never dropped without a word."""

import pytest

from jaxalign.data.raw import messages
from jaxalign.data.raw.counts import RowError

CALL = {"type": "function", "function": {"name": "get_time", "arguments": {"zone": "CET"}}}
AS_TEXT = {"type": "function", "function": {"name": "get_time", "arguments": '{"zone": "CET"}'}}


def read(message, unread=None):
    return messages.read_message(message, "messages", set() if unread is None else unread)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ({"role": "user", "content": "a"}, {"role": "user", "content": "a"}),
        ({"role": None, "content": None, "from": "human", "value": "a"}, {"role": "user", "content": "a"}),
        ({"from": "GPT", "value": "a"}, {"role": "assistant", "content": "a"}),
        ({"role": "Developer", "content": "a"}, {"role": "system", "content": "a"}),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"role": "user", "content": "ab"}),
        ({"role": "user", "content": [{"type": "text", "text": "a", "image": None}]}, {"role": "user", "content": "a"}),
        ({"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "assistant", "content": "", "tool_calls": [CALL]}),
        ({"role": "assistant", "content": "", "tool_calls": [AS_TEXT]}, {"role": "assistant", "content": "", "tool_calls": [CALL]}),
        ({"role": "assistant", "function_call": AS_TEXT["function"]}, {"role": "assistant", "content": "", "tool_calls": [CALL]}),
        (
            {"from": "function_call", "value": '{"name": "get_time", "arguments": {"zone": "CET"}}'},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
        ),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"id": "x1", **CALL}]},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "x1", **CALL}]},
        ),
        ({"from": "observation", "value": "3"}, {"role": "tool", "content": "3"}),
        (
            {"role": "tool", "content": "3", "name": "get_time", "tool_call_id": "x1"},
            {"role": "tool", "content": "3", "name": "get_time", "tool_call_id": "x1"},
        ),
        ({"role": "assistant", "content": "a", "thinking": "t"}, {"role": "assistant", "content": "a", "reasoning_content": "t"}),
        ({"role": "assistant", "content": "a", "reasoning": "t"}, {"role": "assistant", "content": "a", "reasoning_content": "t"}),
        ({"role": "assistant", "content": "a", "train": False}, {"role": "assistant", "content": "a", "weight": 0}),
        ({"role": "assistant", "content": "a", "weight": 1.0}, {"role": "assistant", "content": "a", "weight": 1}),
        ({"role": "assistant", "content": "a", "tool_calls": [], "weight": None}, {"role": "assistant", "content": "a"}),
    ],
)
def test_a_message_of_each_spelling_is_read(message, fields):
    unread = set()
    assert read(message, unread) == fields and not unread


@pytest.mark.parametrize(
    ("message", "rule", "words"),
    [
        ({"role": ["user"], "content": "a"}, "roles", r"role \"\['user'\]\"; known roles are"),
        ({"role": {"a": 1}, "content": "a"}, "roles", "known roles"),
        ({"content": "a"}, "roles", "role 'None'"),
        ({"role": "user", "from": "gpt", "content": "a"}, "message_fields", "two different fields role and from"),
        ({"role": "user", "content": None}, "wrong_type", "content of a turn of role user in messages is missing"),
        ({"role": "user", "content": {"a": 1}}, "wrong_type", "content of a turn of role user in messages is dict"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "content_part", "part of type 'image_url'"),
        ({"role": "user", "content": [{"type": "text"}]}, "content_part", "part of type 'text'"),
        ({"role": "user", "content": "a", "images": ["x"]}, "images", "has a message with images"),
        ({"role": "system", "content": "a", "tools": "[1]"}, "tools", "has a message with tools"),
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "tool_calls", "tool_calls in a user turn"),
        ({"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}, "tool_calls", "must be the name and the arg"),
        ({"role": "assistant", "content": "", "tool_calls": "{no"}, "tool_calls", "not valid JSON"),
        ({"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": "{no"}]}, "tool_calls", "not valid JSON"),
        ({"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": [1]}]}, "tool_calls", "a name and a dict"),
        ({"role": "assistant", "content": "", "tool_calls": [{"name": "f", "strict": True}]}, "tool_calls", "a name and a dict"),
        ({"role": "assistant", "content": "a", "reasoning_content": ["t"]}, "wrong_type", r"reasoning_content is list"),
        ({"role": "assistant", "content": "a", "weight": 0.5}, "weight", "weight 0.5; it must be 1"),
        ({"role": "assistant", "content": "a", "train": "no"}, "weight", "weight no"),
    ],
)
def test_a_message_that_cannot_be_read_refuses_its_row_by_name(message, rule, words):
    with pytest.raises(RowError, match=words) as error:
        read(message)
    assert error.value.rule == rule


def test_a_field_that_nothing_reads_is_named():
    unread = set()
    read({"role": "user", "content": "a", "toxic": False, "language": "en", "note": None}, unread)
    assert unread == {"messages[].toxic", "messages[].language"}


@pytest.mark.parametrize(
    ("message", "unread"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "a", "weight": 0, "cache": {"x": 1}, "note": None}]}, {"weight", "cache"}),
        ({"role": "tool", "content": [{"type": "text", "text": "a", "id": "x"}, {"type": "text", "text": "b"}]}, {"id"}),
    ],
)
def test_keys_of_content_parts_that_nothing_reads_are_named(message, unread):
    names = set()
    read(message, names)
    assert names == {f"messages[].content[].{key}" for key in unread}


@pytest.mark.parametrize(
    ("field", "value", "named"), [("weight", 1, True), ("train", True, True), ("weight", 0, False), ("train", None, False)]
)
def test_a_weight_that_could_train_no_turn_is_named(field, value, named):
    for role in ("user", "system", "tool"):
        unread = set()
        read({"role": role, "content": "a", field: value}, unread)
        assert unread == ({f"messages[].{field} of {role} turns"} if named else set())


@pytest.mark.parametrize(
    ("fields", "read_as"),
    [
        ({"tool_calls": [], "function_call": AS_TEXT["function"]}, {"tool_calls": [CALL]}),
        ({"tool_calls": [CALL], "function_call": {}}, {"tool_calls": [CALL]}),
        ({"reasoning_content": "", "thinking": "hm"}, {"reasoning_content": "hm"}),
        ({"reasoning_content": "", "thinking": ""}, {}),
        ({"content": "", "value": "b"}, {"content": "b"}),
    ],
)
def test_a_spelling_without_a_value_contradicts_nothing(fields, read_as):
    assert read({"role": "assistant", "content": "a", **fields}) == {"role": "assistant", "content": "a", **read_as}

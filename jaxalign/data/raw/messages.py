"""One message of a conversation, in the spellings of public sets, to the few fields that a template reads.

A message is a dict with "role" (system, user, assistant or tool), "content" (text; "" beside tool calls alone) and, where the data set
has them, "tool_calls" (a list of {"type": "function", "function": {"name", "arguments"}}, arguments as a dict; "id" is kept),
"reasoning_content" (text), "name", "tool_call_id" (text) and "weight" (0: not trained, 1: trained).

Spellings: OpenAI (role, content, tool_calls, function_call), ShareGPT and LLaMA-Factory (from, value; function_call, observation), the
content parts and tool calls of transformers' chat templates, `weight` of OpenAI and `train` of axolotl.
"""

from collections.abc import Mapping, Sequence

from jaxalign.data.raw import notation
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.records import EMPTY

Message = dict[str, object]
KNOWN = ("system", "user", "assistant", "tool")
ROLES = {
    **{role: role for role in KNOWN},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "bot", "model", "ai", "chatgpt"), "assistant"),
    **dict.fromkeys(("function", "observation", "function_response", "tool_response", "ipython"), "tool"),
    "developer": "system",
}
CALLS = ("function_call", "tool_call")  # roles of an assistant turn whose content is the JSON of a call
SPELLINGS = {
    "role": ("role", "from"),
    "content": ("content", "value"),
    "reasoning_content": ("reasoning_content", "reasoning", "thinking"),
    "weight": ("weight", "train"),
    "calls": ("tool_calls", "function_call"),
    "name": ("name",),
    "tool_call_id": ("tool_call_id",),
}
PLAIN = {"role", "content"}
READ = {spelling for spellings in SPELLINGS.values() for spelling in spellings}
# Columns of a row, and fields of a message, that change what the model is asked: never left out.
TOOLS = ("tools", "functions")
MEDIA = ("images", "image", "audio", "audios", "video", "videos")


def read_message(message: Mapping, name: str, unread: set[str]) -> Message:
    """The message in the fields of this module; names of fields that nothing reads are added to `unread`, as NAME[].FIELD.

    Raises:
      RowError: the role is unknown, the content is no text, a field has another type, or one is refused by name.
    """
    if message.keys() == PLAIN and message["role"] in KNOWN and isinstance(message["content"], str):
        return dict(message)  # most messages by far
    given = {field: _one_of(message, spellings, name) for field, spellings in SPELLINGS.items()}
    role, content, calls = given["role"], given["content"], given["calls"]
    if isinstance(role, str) and role.lower() in CALLS:
        role, content, calls = "assistant", "", content
    role = ROLES.get(role.lower(), role) if isinstance(role, str) else role
    if not isinstance(role, str) or role not in KNOWN:
        raise RowError("roles", f"{name} has the role {str(role)[:40]!r}; known roles are {', '.join(ROLES)}.")
    read = {"role": role, "content": _content(content, f"a turn of role {role} in {name}", calls not in EMPTY, unread)}
    if calls not in EMPTY:
        read["tool_calls"] = _calls(calls, name, unread)
    for field in ("reasoning_content", "name", "tool_call_id"):
        if given[field] not in EMPTY:
            read[field] = _text(given[field], f"{name}[].{field}")
    if given["weight"] is not None:
        read["weight"] = _weight(given["weight"], name)
        if read["weight"] and role != "assistant":
            unread.update(f"{name}[].{field} of {role} turns" for field in SPELLINGS["weight"] if message.get(field) is not None)
    for field in ("tool_calls", "reasoning_content"):
        if field in read and role != "assistant":
            raise RowError(field, f"{name} has {field} in a {role} turn; only assistant turns have them.")
    _rest(message, name, unread)
    return read


def _one_of(message, spellings, name):
    # the value of a field that has several spellings: they may not contradict each other
    values = [(spelling, message[spelling]) for spelling in spellings if message.get(spelling) is not None]
    values = [(spelling, value) for spelling, value in values if value not in EMPTY] or values
    for spelling, value in values[1:]:
        if value != values[0][1]:
            raise RowError("message_fields", f"{name} has a message with two different fields {values[0][0]} and {spelling}; keep one.")
    return values[0][1] if values else None


def _content(content, where, empty, unread):
    if isinstance(content, Sequence) and not isinstance(content, str):
        return "".join(_part(part, where, unread) for part in content)
    if content is None and empty:
        return ""
    if not isinstance(content, str):
        kind = "missing" if content is None else f"{type(content).__name__} {str(content)[:40]!r}"
        raise RowError("wrong_type", f"the content of {where} is {kind}; it must be text.")
    return content


def _part(part, where, unread):
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind != "text" or not isinstance(part.get("text"), str):
        raise RowError("content_part", f"the content of {where} has a part of type {str(kind)[:40]!r}; only type 'text' is trained.")
    unread.update(f"{where.rpartition(' ')[2]}[].content[].{key}" for key in part.keys() - {"type", "text"} if part[key] not in EMPTY)
    return part["text"]


def _calls(calls, name, unread):
    calls = _parsed(calls, f"tool_calls of {name}")
    calls = [calls] if isinstance(calls, Mapping) else calls
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise RowError("tool_calls", f"tool_calls of {name} is {type(calls).__name__} {str(calls)[:40]!r}; it must be a list of calls.")
    return [_call(call, name, unread) for call in calls]


def _call(call, name, unread):
    function = call.get("function") if isinstance(call, Mapping) and call.get("function") is not None else call
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowError("tool_calls", f"a tool call of {name} is {str(call)[:60]!r}; it must be the name and the arguments of a function.")
    arguments = _one_of(function, ("arguments", "parameters"), f"a tool call of {name}")
    arguments = {} if arguments in EMPTY else _parsed(arguments, f"arguments of the tool call {function['name']!r}")
    extra = function.keys() - {"name", "arguments", "parameters", "type", "id"}
    if not isinstance(arguments, Mapping) or any(function[field] not in EMPTY for field in extra):
        raise RowError("tool_calls", f"a tool call of {name} is {str(function)[:60]!r}; it must be a name and a dict of arguments.")
    beside = {} if function is call else {key: value for key, value in call.items() if key not in ("function", "type", "id")}
    beside |= {} if function is call else {key: function[key] for key in ("type", "id") if key in function}
    unread.update(f"{name}[].tool_calls[].{key}" for key, value in beside.items() if value not in EMPTY)
    identity = {"id": call["id"]} if call.get("id") is not None else {}
    return {"type": "function", **identity, "function": {"name": function["name"], "arguments": dict(arguments)}}


def _parsed(value, what):
    # a dict or list that a data set may hold as JSON text
    if not isinstance(value, str):
        return value
    try:
        return notation.read(value)
    except RowError:
        raise
    except (ValueError, RecursionError) as error:
        raise RowError("tool_calls", f"{what} is the text {value[:60]!r}, which is not valid JSON: {str(error)[:60]}.") from error


def _text(value, what):
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{what} is {type(value).__name__} {str(value)[:40]!r}; it must be text.")
    return value


def _weight(value, name):
    if value not in (0, 1):
        raise RowError("weight", f"{name} has a message of weight {str(value)[:40]}; it must be 1 (trained) or 0 (not trained).")
    return int(value)


def _rest(message, name, unread):
    for field in message.keys() - READ:
        if message[field] in EMPTY:
            continue
        if field in (*TOOLS, *MEDIA):
            raise RowError(field, f"{name} has a message with {field}, which no template would see; leave the row out.")
        unread.add(f"{name}[].{field}")

"""Conversations as tuples of messages: text columns, lists of messages, and the prompt that two conversations share."""

from collections.abc import Mapping, Sequence
import re

from jaxalign.data.raw import notation
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.messages import Message, read_message
from jaxalign.data.raw.records import Record
from jaxalign.data.raw.typed import written_out

CONVERSATIONS = ("messages", "conversations", "conversation")  # columns
TAG = re.compile(r"<\|(\w+)\|>")


def text_of(row: Record, name: str) -> str:
    """A text column.

    Raises:
      RowError: it is missing or no text.
    """
    value = row.get(name)
    if value is None:
        raise RowError("missing_column", f"the row has no {name} but {row.given}; set rename={{{name!r}: ...}}.")
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{name} is {type(value).__name__} {str(value)[:40]!r}; it must be text.")
    return value


def side_of(row: Record, name: str) -> str | tuple[Message, ...]:
    """A column that is text or a conversation (a list of messages, or one message, also written out as text)."""
    value = row.get(name)
    return side(text_of(row, name) if value is None or isinstance(value, (int, float)) else value, name, row)


def side(value, name: str, row: Record) -> str | tuple[Message, ...]:
    """Text as it is, or a conversation. `name` is the column that it comes from.

    Raises:
      RowError: as `messages_of`.
    """
    if isinstance(value, str):
        messages = written_out(value, name)
        if messages is None:
            items = notation.read_list(value) if value.lstrip()[:2] in ("['", '["') else None
            if items and all(isinstance(item, str) for item in items):
                row.changed["written_list"] = f"{name} is a list written as text, {value[:40]!r}; it is trained as that text"
            return value
        row.changed["written_messages"] = f"{name} is a conversation written as text; it was read as messages"
        value = messages
    return messages_of(value, name, row)


def conversation(value: str | tuple[Message, ...]) -> tuple[Message, ...]:
    """An answer as messages."""
    return ({"role": "assistant", "content": value},) if isinstance(value, str) else value


def messages_of(value, name: str, row: Record) -> tuple[Message, ...]:
    """A conversation, its messages in the fields of `messages`; what nothing reads of them is noted in `row`.

    Text that begins with its role, "<|prompter|>..." or "<|assistant|>...", is a message too, as in the dialogues of PRO and A-LoL, whose
    prompts end in a "<|assistant|>" without text: it is left out.

    Raises:
      RowError: a message is malformed, a role unknown, or the order is not (system) then user and assistant in turn.
    """
    value = [value] if isinstance(value, Mapping) else value
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        what = "text or a list" if isinstance(value, (int, float)) else "a list"
        raise RowError("wrong_type", f"{name} is {type(value).__name__} {str(value)[:40]!r}; it must be {what} of messages.")
    value = value[:-1] if len(value) > 1 and value[-1] == "<|assistant|>" else value
    turns = tuple(_message(message, name, row) for message in value)
    for i, turn in enumerate(turns):
        before = turns[i - 1]["role"] if i else None
        if turn["role"] == "system" and i:
            raise RowError("roles", f"{name} has a system turn at place {i}; it can only be the first.")
        if turn["role"] == before and before in ("user", "assistant"):
            raise RowError("roles", f"{name} has two {before} turns in a row, at places {i - 1} and {i}; join them.")
    return turns


def _message(message, name, row):
    tag = TAG.match(message) if isinstance(message, str) else None
    if tag:
        message = {"role": tag[1], "content": message[tag.end() :]}
    if not isinstance(message, Mapping):
        raise RowError("wrong_type", f"{name} holds {str(message)[:40]!r}, which is not a message with role and content.")
    return read_message(message, name, row.fields)


def common_prompt(first: Sequence[Message], second: Sequence[Message]) -> tuple[tuple, tuple[tuple, tuple]]:
    """What two conversations share, and the rest of each: (prompt, (rest of first, rest of second)).

    The rest is the last turn, or, with tool calls, the assistant and tool turns after the last user turn.

    Raises:
      RowError: they part earlier (rule "part_early"), or are equal (rule "same_response").
    """
    if tuple(first) == tuple(second):
        raise RowError("same_response", "chosen and rejected are equal, so there is nothing to prefer; leave the row out.")
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    if shared == 0:
        raise RowError("part_early", "chosen and rejected share no turn, so there is no common prompt; give a prompt column.")
    while shared > 1 and first[shared - 1]["role"] in ("assistant", "tool"):
        shared -= 1  # calls that both made are part of both answers
    rests = tuple(first[shared:]), tuple(second[shared:])
    if not all(rest and all(turn["role"] in ("assistant", "tool") for turn in rest) for rest in rests):
        raise RowError(
            "part_early",
            f"chosen ({len(first)} turns) and rejected ({len(second)} turns) part after {shared} turns, before the last one: "
            "their last turns answer different prompts.",
        )
    return tuple(first[:shared]), rests

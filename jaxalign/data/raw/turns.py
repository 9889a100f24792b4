"""Conversations as tuples of messages: text columns, lists of messages, and the prompt that two conversations share."""

from collections.abc import Mapping, Sequence
import re

from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.messages import Message, read_message

TAG = re.compile(r"<\|(\w+)\|>")


def text_of(row: Mapping, name: str) -> str:
    """A text column.

    Raises:
      RowError: it is missing or no text.
    """
    value = row.get(name)
    if value is None:
        raise RowError("missing_column", f"the row has no {name} but {', '.join(sorted(row))}; set rename={{{name!r}: ...}}.")
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{name} is {type(value).__name__} {str(value)[:40]!r}; it must be text.")
    return value


def side_of(row: Mapping, name: str, unread: set[str]) -> str | tuple[Message, ...]:
    """A column that is text or a conversation (a list of messages, or one message). `unread`: as in `messages_of`."""
    value = row.get(name)
    if isinstance(value, (list, tuple, Mapping)):
        return messages_of(value, name, unread)
    return text_of(row, name)


def messages_of(value, name: str, unread: set[str]) -> tuple[Message, ...]:
    """A conversation, its messages in the fields of `messages`; names of fields that nothing reads are added to `unread`.

    Text that begins with its role, "<|prompter|>..." or "<|assistant|>...", is a message too, as in the dialogues of PRO and A-LoL, whose
    prompts end in a "<|assistant|>" without text: it is left out.

    Raises:
      RowError: a message is malformed, a role unknown, or the order is not (system) then user and assistant in turn.
    """
    value = [value] if isinstance(value, Mapping) else value
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise RowError("wrong_type", f"{name} is {str(value)[:40]!r}; it must be a list of messages.")
    value = value[:-1] if len(value) > 1 and value[-1] == "<|assistant|>" else value
    turns = tuple(_message(message, name, unread) for message in value)
    for i, turn in enumerate(turns):
        before = turns[i - 1]["role"] if i else None
        if turn["role"] == "system" and i:
            raise RowError("roles", f"{name} has a system turn at place {i}; it can only be the first.")
        if turn["role"] == before and before in ("user", "assistant"):
            raise RowError("roles", f"{name} has two {before} turns in a row, at places {i - 1} and {i}; join them.")
    return turns


def _message(message, name, unread):
    tag = TAG.match(message) if isinstance(message, str) else None
    if tag:
        message = {"role": tag[1], "content": message[tag.end() :]}
    if not isinstance(message, Mapping):
        raise RowError("wrong_type", f"{name} holds {str(message)[:40]!r}, which is not a message with role and content.")
    return read_message(message, name, unread)


def common_prompt(first: Sequence[Message], second: Sequence[Message]) -> tuple[tuple, tuple[tuple, tuple]]:
    """What two conversations share, which must be all but the last turn of each: (prompt, (last turn of first, of second)).

    Raises:
      RowError: they part earlier, have different lengths (rule "part_early"), or are equal (rule "same_response").
    """
    if tuple(first) == tuple(second):
        raise RowError("same_response", "chosen and rejected are equal, so there is nothing to prefer; leave the row out.")
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    if shared == 0:
        raise RowError("part_early", "chosen and rejected share no turn, so there is no common prompt; give a prompt column.")
    if shared != len(first) - 1 or shared != len(second) - 1:
        raise RowError(
            "part_early",
            f"chosen ({len(first)} turns) and rejected ({len(second)} turns) part after {shared} turns, before the last one: "
            "their last turns answer different prompts.",
        )
    return tuple(first[:shared]), (tuple(first[shared:]), tuple(second[shared:]))

r"""Text that is a conversation in writing: JSON or Python notation, "\n\nHuman: ..." dialogues, text that a template has rendered already.

The first two become the conversation that they stand for; rendered text is refused, since a template would write its marks around it again.
"""

import re

from jaxalign.data.raw import notation
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.messages import CALLS, ROLES

HH_TURN = re.compile(r"\n\n(Human|Assistant):")
# "Human:" alone may begin an answer: a few of HH's do.
HH_IN_ANSWER = re.compile(r"\n\nHuman:|\A\n\nAssistant:|\A\s*Human:(?=.*\n\nAssistant:)", re.DOTALL)
HH_ROLES = {"Human": "user", "Assistant": "assistant"}
NOTATION = re.compile(r"""\s*\[?\s*\{""")
KEYS = [re.compile(rf"""["'](?:{names})["']\s*:""") for names in ("role|from", "content|value|tool_calls")]
# What the templates of chat models write around turns, and nobody else.
MARK = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|end_header_id|eot_id|eom_id|start_of_role|end_of_role|header_start|header_end|eot|turn>|"
    r"user|assistant|system|end|end_of_turn|endoftext|im_sep|START_OF_TURN_TOKEN|END_OF_TURN_TOKEN)\|>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|<｜(?:User|Assistant)｜>"
)
# A prompt that ends by asking for the answer, as templates in plain text do.
ASKS = re.compile(
    r"(?:^|\n)\s*(?:#+\s*)?(?:Assistant|ASSISTANT|Response|RESPONSE|Answer by the assistant)\s*:\s*$"
    r"|(?<!\w)(?:USER|User|HUMAN|Human)\s*:.*\s(?:ASSISTANT|Assistant)\s*:\s*$",  # Vicuna's, in one line
    re.DOTALL,
)


def written_out(text: str, name: str) -> list | dict | None:
    """The messages that text writes out in JSON or Python notation; None where it is ordinary text.

    Raises:
      RowError: it begins like messages and is neither notation (rule "written_messages"), or repeats a key ("repeated_key").
    """
    if not NOTATION.match(text) or not all(key.search(text) for key in KEYS):
        return None
    try:
        parsed = _parsed(text)
    except RowError:
        raise
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise RowError(
            "written_messages",
            f"{name} is a conversation written as text, {text[:40]!r}, but neither valid JSON nor a Python list of messages; "
            "write lists of messages as JSON.",
        ) from error
    messages = parsed if isinstance(parsed, list) else [parsed]
    return parsed if messages and all(_is_message(message) for message in messages) else None


def is_hh(text: object) -> bool:
    r"""Whether it is a text that begins with "\n\nHuman:"."""
    return isinstance(text, str) and text.startswith("\n\nHuman:")


def hh_turns(dialogue: str, name: str) -> list[dict[str, str]]:
    r"""The messages of a dialogue "\n\nHuman: ...\n\nAssistant: ...", their texts stripped.

    Raises:
      RowError: it does not begin with "\n\nHuman:" (rule "roles").
    """
    parts = HH_TURN.split(dialogue)
    if parts[0].strip() or len(parts) < 3:
        raise RowError("roles", f"{name} does not begin with '\\n\\nHuman:' but with {dialogue[:30]!r}; is the format hh?")
    return [{"role": HH_ROLES[role], "content": content.strip()} for role, content in zip(parts[1::2], parts[2::2], strict=True)]


def hh_prompt(prompt: str) -> list[dict[str, str]] | None:
    r"""The messages of a prompt "\n\nHuman: ...\n\nAssistant:", without the open turn at its end; None for other text."""
    text = "\n\n" + prompt.lstrip()
    if not HH_TURN.match(text):
        return None
    turns = hh_turns(text, "prompt")
    open_turn = turns[-1]["role"] == "assistant" and not turns[-1]["content"]
    return turns[:-1] if open_turn else turns


def hh_answer(answer: str) -> str:
    r"""An answer to an HH prompt, stripped, without the "Assistant:" that opens its turn where the prompt does not."""
    return re.sub(r"^Assistant:\s*", "", answer.strip())


def refuse_dialogue(answer: str) -> None:
    r"""Raises RowError (rule "hh_answer") where an answer holds turns in writing: it is a dialogue, or goes on with "\n\nHuman:".

    A template would write them into a single turn.
    """
    turn = HH_IN_ANSWER.search(answer)
    if turn:
        raise RowError(
            "hh_answer",
            f"a response holds the turn {turn[0].strip()!r} as text: {answer[max(0, turn.start() - 20) : turn.start() + 40]!r}; give the "
            "answer alone or messages, whole dialogues as chosen and rejected, or train the text as it stands with template='plain'.",
        )


def refuse_rendered(text: str, what: str, *, asks: bool) -> None:
    """Raises RowError where text holds the marks of a chat template, or, with `asks`, ends by asking for the answer.

    Both come of a prompt that was rendered already; a template would write its own marks around it.
    """
    found = MARK.search(text) or (ASKS.search(text) if asks else None)
    if found:
        raise RowError(
            "rendered_text",
            f"{what} holds {found[0].strip()[-40:]!r}, which a chat template writes: is it rendered already? Give the messages, or "
            "train the text as it stands with template='plain'.",
        )


def _parsed(text):
    try:
        return notation.read(text)
    except RowError:
        raise
    except (ValueError, RecursionError):
        return notation.read_python(text)


def _is_message(value):
    if not isinstance(value, dict):
        return False
    role = value.get("role") or value.get("from")
    return isinstance(role, str) and role.lower() in {*ROLES, *CALLS} and bool(value.keys() & {"content", "value", "tool_calls"})

"""Thoughts of reasoning models: <think> ... </think> before an answer, and what `data.reasoning` makes of them.

keep   the row and the template decide; a row whose thoughts the template does not write is refused.
strip  no thought is trained: thoughts are taken out of the row, the template is asked for an answer without one, and where its generation
       prompt opens a thought all the same (DeepSeek R1), the prompt closes it at once.
train  the last trained answer is written with its thought, or an empty one, whatever the template does with thoughts of past turns.
"""

import re

from jaxalign.data.text.templates import Message

REASONING = ("keep", "strip", "train")
SWITCH = {"keep": None, "strip": False, "train": True}  # what the template is given as enable_thinking
OPEN, CLOSE = "<think>", "</think>"
LEADING = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
OPENED = re.compile(r"<think>\s*\Z")  # at the end of a generation prompt
BLOCK = re.compile(r"<think>\s*(?:</think>\s*)?\Z")


def split(message: Message) -> tuple[str | None, Message]:
    """The thought of an assistant turn (None: it has none) and the turn without it."""
    thought, content = message.get("reasoning_content"), message["content"]
    inside = LEADING.match(content)
    if inside and (content[inside.end() :] or message.get("tool_calls")):
        thought = inside[1].strip() if thought is None else thought
        content = content[inside.end() :]
    if thought is None:
        return None, message
    return thought, {**{key: value for key, value in message.items() if key != "reasoning_content"}, "content": content}


def closed(prompt: str) -> str:
    """A generation prompt in which a thought that is opened at its end is empty."""
    opened = OPENED.search(prompt)
    return prompt if opened is None else f"{prompt[: opened.start()]}{OPEN}\n\n{CLOSE}\n\n"


def before_thought(prompt: str) -> str:
    """A generation prompt without the thought, open or empty, at its end."""
    return BLOCK.sub("", prompt)


def written(prompt: str, thought: str, answer: str) -> str:
    """What follows a generation prompt: the thought, opened unless the prompt opens it, and the answer, whose own empty thought goes."""
    inside = LEADING.match(answer)
    answer = answer[inside.end() :] if inside and not inside[1].strip() else answer
    opening = "" if OPENED.search(prompt) else f"{OPEN}\n"
    return f"{opening}{thought.strip()}\n{CLOSE}\n\n{answer.lstrip()}"

"""Thoughts of reasoning models: <think> ... </think> before an answer, and what `data.reasoning` makes of them.

keep   the row and the template decide; a row whose thoughts the template does not write is refused.
strip  no thought is trained: the thought that opens an answer is taken out of the row, the template is asked for an answer without one, and
       where its generation prompt opens a thought all the same (DeepSeek R1), the prompt closes it at once.
train  the last trained answer is written with its thought, or an empty one, whatever the template does with thoughts of past turns.

Under strip and train an answer that holds <think> or </think> elsewhere is refused: thought and answer cannot be told apart.
"""

import re

from jaxalign.data.raw.counts import RowError
from jaxalign.data.text.templates import Message

REASONING = ("keep", "strip", "train")
SWITCH = {"keep": None, "strip": False, "train": True}  # what the template is given as enable_thinking
OPEN, CLOSE = "<think>", "</think>"
LEADING = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
MARK = re.compile(r"</?think>")
OPENED = re.compile(r"<think>\s*\Z")  # at the end of a generation prompt
BLOCK = re.compile(r"<think>\s*(?:</think>\s*)?\Z")


def split(message: Message) -> tuple[str | None, Message]:
    """The thought of an assistant turn (None: it has none) and the turn without it.

    Raises:
      RowError: thought and answer cannot be told apart, or the turn has two different thoughts (rule "reasoning").
    """
    thought, content = message.get("reasoning_content"), message["content"]
    inside = LEADING.match(content)
    if inside and (content[inside.end() :] or message.get("tool_calls")):
        written_thought, content = inside[1].strip(), content[inside.end() :]
        if thought and written_thought and thought.strip() != written_thought:
            raise RowError(
                "reasoning",
                f"an answer has two different thoughts: reasoning_content is {thought[:40]!r}, and its content begins with "
                f"{written_thought[:40]!r}; keep one.",
            )
        thought = thought or written_thought
    mark = MARK.search(content)
    if mark:
        raise RowError(
            "reasoning",
            f"an answer holds {mark[0]!r} beside one whole thought at its beginning: {content[:60]!r}; data.reasoning reads "
            "<think>THOUGHT</think>ANSWER. Mend the text, leave the row out, or set data.reasoning='keep'.",
        )
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

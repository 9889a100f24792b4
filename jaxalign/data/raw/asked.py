"""The prompt of a row: one column, or what several columns of public sets ask together (Alpaca's instruction and input, a history)."""

import re

from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.messages import Message
from jaxalign.data.raw.records import EMPTY, Record
from jaxalign.data.raw.turns import side_of

ASKING = ("prompt", "instruction")
PROMPTS = (*ASKING, "conversations", "conversation")
BESIDE_ANSWERS = (*PROMPTS, "messages")  # messages hold the question alone where the answer stands in a column of its own
BESIDE_CHOICES = (*BESIDE_ANSWERS, "question", "context", "history", "input")  # where two answers and a choice leave no doubt
SUBJECTS = ("input", "context")  # what an instruction is about


def prompt_of(row: Record, names: tuple[str, ...] = PROMPTS) -> str | tuple[Message, ...] | None:
    """The prompt, text or messages; None where the row has none.

    An `input` or `context` stands below its instruction, after a line break, as in LLaMA-Factory; pairs of a `history` before both. A
    prompt may hold the text of such a column already; where it is but a part of a line, `row` notes that nothing was added.

    Raises:
      RowError: a column that belongs to the question cannot be joined to it (rules "input", "context", "history").
    """
    name = row.first(names)
    if name is None:
        return None
    prompt = side_of(row, name)
    instructed = name == "instruction" or (name == "prompt" and row.peek("instruction") == row.get("prompt"))
    if instructed:
        row.get("instruction")  # it is read
    for column in SUBJECTS:
        subject = row.get(column)
        if subject not in (*EMPTY, row.get(name)) and not (isinstance(subject, str) and not subject.strip()):
            prompt = _with_subject(prompt, row, column, instructed=instructed)
    return prompt if row.get("history") in (*EMPTY, row.get(name)) else _with_history(prompt, row)


def refuse_empty(row: Record, names: tuple[str, ...] = PROMPTS) -> None:
    """Raises RowError (rule "empty_prompt") where a row without a prompt has a column for it, in which nothing stands."""
    name = next((name for name in names if name in row and row.peek(name) in EMPTY), None)
    if name is not None:
        raise RowError("empty_prompt", f"the prompt is empty: {name} is {row.peek(name)!r}; give every row a prompt.")


def _with_subject(prompt, row, column, *, instructed):
    subject = row.get(column)
    if not isinstance(subject, str):
        raise RowError(column, f"{column} is {type(subject).__name__} {str(subject)[:40]!r} and not part of the prompt; {_out(column)}")
    if instructed and isinstance(prompt, str):
        return f"{prompt}\n{subject}"
    if _holds(prompt, row, column):
        return prompt
    raise RowError(column, f"the prompt does not hold the text of {column}, {subject[:40]!r}; join them in the data, or {_out(column)}")


def _with_history(prompt, row):
    history = row.get("history")
    if isinstance(history, str) and _holds(prompt, row, "history"):
        return prompt
    pairs = isinstance(history, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in history
    )
    if not pairs or not isinstance(prompt, str):
        raise RowError("history", f"history is {str(history)[:40]!r}; it must be pairs of question and answer before a prompt of text.")
    turns = [{"role": role, "content": text} for pair in history for role, text in zip(("user", "assistant"), pair, strict=True)]
    return (*turns, {"role": "user", "content": prompt})


def _holds(prompt, row, column):
    whole = prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)
    text = row.get(column).strip()
    if text not in whole:
        return False
    if not re.search(rf"^{re.escape(text)}\s*$|(?<!\w){re.escape(text)}\s*\Z", whole, re.MULTILINE):
        row.changed[f"{column}_in_prompt"] = f"the prompt holds the text of {column}, {text[:40]!r}, within a line; it was not added again"
    return True


def _out(column):
    return f"leave it out with rename={{{column!r}: None}}."

"""One prompt with its judged responses, and the rules that every one of them keeps.

One canonical record for all kinds of feedback after HALOs (arXiv 2402.01306).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import json

import numpy as np

from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.messages import TOOLS, Message
from jaxalign.data.raw.records import Record
from jaxalign.data.raw.typed import refuse_dialogue, refuse_rendered

Messages = tuple[Message, ...]
LOST = "\ufffd"


@dataclasses.dataclass(frozen=True)
class Example:
    """One prompt with its judged responses."""

    prompt: str | Messages | None  # None: plain text without a prompt
    responses: tuple[str | Messages, ...]  # the same kind, text or messages, for all
    rewards: tuple[float, ...]  # 1 or 0, or a score in [0, 1]; by rank where only an order is known
    paired: bool  # response 0 is preferred to response 1
    columns: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)  # name -> a number of every response
    tools: tuple[dict, ...] = ()  # JSON schemas of what may be called
    places: tuple[int, ...] | None = dataclasses.field(default=None, compare=False)  # of the responses in the row; None: as they stand

    def only(self, which: Sequence[int], *, paired: bool) -> "Example":
        """The same example with the responses of these numbers, in this order."""
        columns = {name: tuple(values[k] for k in which) for name, values in self.columns.items()}
        places = range(len(self.responses)) if self.places is None else self.places
        responses, rewards, places = (tuple(values[k] for k in which) for values in (self.responses, self.rewards, places))
        return dataclasses.replace(self, responses=responses, rewards=rewards, paired=paired, columns=columns, places=places)

    def as_in_row(self) -> "Example":
        """The same responses in the order in which the row has them; response 0 is not the preferred one any more."""
        return self if self.places is None else self.only(np.argsort(self.places).tolist(), paired=False)


def check(example: Example) -> None:
    """Raises RowError where a side is empty, a role is out of place, two sides of a pair are equal, or a text is no Unicode."""
    for k, response in enumerate(example.responses):
        if _is_empty(response):
            raise RowError("empty_response", f"response {k} is empty; give it a text, or leave the row out.")
        if not isinstance(response, str) and (response[0]["role"], response[-1]["role"]) != ("assistant", "assistant"):
            raise RowError("roles", f"response {k} begins with {response[0]['role']} and ends with {response[-1]['role']}, not assistant.")
    if isinstance(example.prompt, tuple) and (not example.prompt or example.prompt[-1]["role"] not in ("user", "tool")):
        raise RowError("roles", "the prompt does not end with a user turn.")
    last = example.prompt[-1] if isinstance(example.prompt, tuple) else {"role": "user", "content": example.prompt or ""}
    if example.prompt is not None and last["role"] == "user" and not last["content"].strip():
        raise RowError("empty_prompt", "the prompt is empty; give every row a prompt, or use format 'text'.")
    if example.paired and example.responses[0] == example.responses[1]:
        raise RowError("same_response", "chosen and rejected are equal, so there is nothing to prefer; leave the row out.")
    written(example)


def written(example: Example) -> bytes:
    """The prompt, the responses and the tools as UTF-8 JSON.

    Raises:
      RowError: a text holds half a surrogate pair (rule "unicode"), or a tool or call holds what JSON cannot write.
    """
    return as_json([example.prompt, example.responses, example.tools])


def as_json(parts: Sequence) -> bytes:
    """Parts of a row as UTF-8 JSON; raises as `written`."""
    try:
        return json.dumps(parts, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError as error:
        before = error.object[max(0, error.start - 20) : error.start].rpartition('"')[2]  # what of it is the row's, not JSON's
        raise RowError(
            "unicode",
            f"a text holds {error.object[error.start]!r} after {before!r}: half a character, or a byte that is not UTF-8; mend the text, "
            "or leave the row out.",
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError("wrong_type", f"a tool or a tool call holds what JSON cannot write: {str(error)[:80]}.") from error


def note_odd(example: Example, row: Record) -> None:
    """Notes in the row what its texts had lost before it was read: characters, and values of which a word is left."""
    row.note_missing(but=TOOLS)
    sides = [example.prompt or "", *example.responses]
    texts = [text for side in sides for text in ([side] if isinstance(side, str) else [turn["content"] for turn in side])]
    if any(one == other for one, other in itertools.combinations(example.responses, 2)):
        row.changed["equal_responses"] = f"two of {len(example.responses)} responses are equal: judgements of them contradict each other"
    text = next((text for text in texts if LOST in text), None)
    if text is not None:
        where = text[max(0, text.index(LOST) - 20) : text.index(LOST) + 20]
        row.changed["lost_character"] = f"a text holds {LOST!r}, which stands for bytes that somebody could not read: {where!r}"


def refuse_rendered_text(example: Example) -> None:
    """Raises RowError where a template has been at a text already, or an answer holds whole turns; see `typed`."""
    if example.prompt is None:
        return
    prompt = [{"role": "user", "content": example.prompt}] if isinstance(example.prompt, str) else example.prompt
    for place, turn in enumerate(prompt):
        refuse_rendered(turn["content"], "the prompt", asks=place == len(prompt) - 1)
    for response in example.responses:
        for turn in [{"content": response}] if isinstance(response, str) else response:
            refuse_rendered(turn["content"], "a response", asks=False)
            if turn.get("role") != "tool":
                refuse_dialogue(turn["content"])


def best_and_worst(example: Example) -> Example:
    """The pair of the best and the worst response.

    Raises:
      RowError: all are equally good (rule "tie"), or there is one alone (rule "too_few").
    """
    count = len(example.responses)
    if count < 2:
        raise RowError("too_few", f"feedback='pair' of {count} response; it needs at least 2.")
    # The text decides between equals, so that the order of the list does not.
    worst, *_, best = sorted(range(count), key=lambda k: (example.rewards[k], repr(example.responses[k])))
    if example.rewards[best] == example.rewards[worst]:
        raise RowError("tie", f"all {count} responses have the same score, so none is preferred; leave the row out, or use the scores.")
    return example.only((best, worst), paired=True)


def _is_empty(response):
    if isinstance(response, str):
        return not response.strip()
    return not response or not (response[-1]["content"].strip() or response[-1].get("tool_calls"))

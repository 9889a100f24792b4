"""One example in token space: prompt ids and response ids, cut to length by rule, and checked.

A row that breaks a rule is a RowError, never a silently shorter or emptier row; what a rule changed is counted.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import numpy as np

from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.formats import Example
from jaxalign.data.text.pieces import Prompt
from jaxalign.data.text.renderer import Renderer, messages_from

PROMPT_TRUNCATION = ("keep_end", "keep_start", "drop")
RESPONSE_TRUNCATION = ("keep_start", "drop")
TRAIN_TURNS = ("last", "all")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """An example in tokens."""

    prompt: np.ndarray  # int32[P], P >= 1
    responses: tuple[np.ndarray, ...]  # int32[L_k], L_k >= 1
    scored: tuple[np.ndarray, ...]  # uint8[L_k]
    rewards: tuple[float, ...]
    paired: bool
    row: int  # number of the raw row
    columns: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)  # name -> a number of every response


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long the parts may be, in tokens, and what happens to one that is longer.

    A whole group must fit a row, so what the responses leave of it is a limit for the prompt too. `drop` is the default for
    responses: a cut response has lost its stop token, and a model trained on many of those learns not to stop. The prompt's end,
    where the question is, is kept by default: of a conversation, whole old turns go first.
    """

    row_tokens: int
    share_prompt: bool
    max_prompt_tokens: int | None = None  # None: what the responses leave of the row
    max_response_tokens: int | None = None  # None: an equal share of the row, less two tokens, or what a cut leaves to the prompt
    prompt_truncation: str = "keep_end"
    response_truncation: str = "drop"
    mismatched: bool = False  # every group gets one response more, of another prompt, as long as its own are on average

    def __post_init__(self):
        for name, allowed in (("prompt_truncation", PROMPT_TRUNCATION), ("response_truncation", RESPONSE_TRUNCATION)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}.")
        for name in ("max_prompt_tokens", "max_response_tokens", "row_tokens"):
            value = getattr(self, name)
            if value is not None and value < 2:
                raise ValueError(f"{name}={value} leaves no room for text; use at least 2.")

    def of_response(self, lengths: Sequence[int], prompt_tokens: int) -> int:
        """Most tokens of one of the responses of these lengths to a prompt of `prompt_tokens`.

        Responses that are cut leave the prompt whole where it is up to half of the row, or that half.
        """
        if self.max_response_tokens is not None:
            return self.max_response_tokens
        count = len(lengths) + self.mismatched
        share = self.row_tokens // count - 2
        shared = self.share_prompt and count > 1
        prompt = min(prompt_tokens, self.max_prompt_tokens or prompt_tokens, self.row_tokens // (2 if shared else 2 * count))
        total = sum(min(length, share) for length in lengths)
        if self.response_truncation == "drop" or self.of_prompt(len(lengths), total) >= prompt:
            return share
        return (self.row_tokens - count + 1 - prompt) // count if shared else self.row_tokens // count - prompt

    def of_prompt(self, count: int, response_tokens: int) -> int:
        """Most tokens of a prompt whose `count` responses have `response_tokens` together; below 1 if they fill the row."""
        if self.mismatched:
            count, response_tokens = count + 1, response_tokens + -(-response_tokens // count)
        left = self.row_tokens - response_tokens
        left = left - count + 1 if self.share_prompt and count > 1 else left // count
        return left if self.max_prompt_tokens is None else min(left, self.max_prompt_tokens)


def encode(
    example: Example, *, row: int, renderer: Renderer, limits: Limits, train_turns: str, changed: Callable[[str, str], None]
) -> Encoded:
    """The tokens of an example, checked; `changed(rule, message)` is called once for every rule that changed it, if it is kept.

    Raises:
      RowError: the example breaks a rule; the error's `rule` names it.
    """
    notes: dict[str, str] = {}  # rule -> the first message
    prompt, parts = _encoded(example, renderer, train_turns, notes)
    most = limits.of_response([len(ids) for ids, _ in parts], len(prompt))
    parts = [_cut_response(ids, scored, most, limits, notes) for ids, scored in parts]
    prompt = _cut_prompt(prompt, example, renderer, limits.of_prompt(len(parts), sum(len(ids) for ids, _ in parts)), limits, notes)
    for k, (ids, scored) in enumerate(parts):
        _check_response(k, ids, scored, renderer, cut=len(ids) == most)
    if example.paired and parts[0] == parts[1]:
        raise RowError("same_tokens", "chosen and rejected have the same tokens, so there is nothing to prefer.")
    for rule, message in notes.items():
        changed(rule, message)
    return Encoded(
        np.array(prompt, np.int32),
        tuple(np.array(ids, np.int32) for ids, _ in parts),
        tuple(np.array(scored, np.uint8) for _, scored in parts),
        example.rewards,
        example.paired,
        row,
        example.columns,
    )


def _encoded(example, renderer, train_turns, notes):
    # (ids of the prompt, (ids, scored) of every response)
    if example.prompt is None:
        # Plain language modelling: something must stand before the first token to predict it from.
        first = renderer.tokenizer.bos_id if renderer.writes_bos else renderer.stop_id
        prompt, responses = Prompt(None, (), "", [first]), [renderer.text(response) for response in example.responses]
    else:
        prompt = renderer.prompt(example.prompt, example.tools)
        if not prompt.ids:
            raise RowError("empty_prompt", "the prompt has no tokens; give every row a prompt, or use format 'text'.")
        responses = [renderer.response(prompt, response, train_turns=train_turns) for response in example.responses]
    for rule, message in (note for part in (prompt, *responses) for note in part.notes):
        notes.setdefault(rule, message)
    return prompt.ids, [(response.ids, response.scored) for response in responses]


def _cut_prompt(prompt, example, renderer, most, limits, notes):
    if len(prompt) <= most:
        return prompt
    message = f"the prompt has {len(prompt)} tokens, and its responses leave room for {max(most, 0)} of row_tokens={limits.row_tokens}"
    if most == limits.max_prompt_tokens:
        message = f"the prompt has {len(prompt)} tokens, more than max_prompt_tokens={most}"
    if most < 2:
        raise RowError("row_tokens", f"{message}; raise row_tokens or lower max_response_tokens.")
    if limits.prompt_truncation == "drop":
        raise RowError("prompt_too_long", f"{message}; raise it, or set prompt_truncation='keep_end'.")
    keep_end = limits.prompt_truncation == "keep_end"
    if renderer.template is None:
        head = prompt[:1] if renderer.writes_bos else []
        rule, prompt = "prompt_cut", head + prompt[len(prompt) - most + len(head) :] if keep_end else prompt[:most]
        if not renderer.tokenizer.decode(prompt[len(head) :]).strip("\ufffd").strip():
            raise RowError("prompt_too_long", f"{message}, which leaves no whole character of it; raise it.")
    else:
        rule, prompt = _cut_conversation(example, renderer, most, keep_end=keep_end)
        if prompt is None:
            raise RowError("prompt_too_long", f"{message}, which its template alone fills; raise it.")
    notes.setdefault(rule, message)
    return prompt


def _cut_conversation(example, renderer, most, *, keep_end):
    # Whole old turns go first, then the text of the last turn: what the template writes around it is never cut.
    messages, tools = messages_from(example.prompt, "user"), example.tools
    system = messages[:1] if messages[0]["role"] == "system" else []
    starts = [i for i, turn in enumerate(messages) if turn["role"] == "user"]
    for start in starts[1:] if keep_end else []:
        shorter = [*system, *messages[start:]]
        ids = renderer.prompt_ids(shorter, tools)
        if len(ids) <= most:
            return "prompt_turns_cut", ids
        messages = shorter if start == starts[-1] else messages
    *before, last = messages
    content, ids = renderer.tokenizer.encode(last["content"]), renderer.prompt_ids(messages, tools)
    while len(ids) > most:
        excess = len(ids) - most
        content = content[excess:] if keep_end else content[:-excess]
        text = renderer.tokenizer.decode(content).strip("\ufffd")  # a character of several byte tokens may be cut in two
        if not text.strip():
            return "prompt_cut", None
        ids = renderer.prompt_ids([*before, {**last, "content": text}], tools)
    return "prompt_cut", ids


def _cut_response(ids, scored, most, limits, notes):
    if len(ids) <= most:
        return ids, scored
    message = f"a response has {len(ids)} tokens, more than {max(most, 0)} (max_response_tokens={limits.max_response_tokens})"
    if limits.response_truncation == "drop" or most < 1:
        raise RowError("response_too_long", f"{message}; raise it or row_tokens, or set response_truncation='keep_start'.")
    notes.setdefault("response_keep_start", f"{message}; its stop token is cut off")
    return ids[:most], scored[:most]


def _check_response(k, ids, scored, renderer, *, cut):
    trained = [token for token, score in zip(ids, scored, strict=True) if score]
    stops = renderer.stops.of(is_last=True) + renderer.stops.of(is_last=False)
    if not any(token not in stops for token in trained):
        raise RowError("empty_response", f"response {k} has no trained token but its stop token; give it a text, or leave the row out.")
    if not cut and (ids[-1] not in stops or not scored[-1]):
        raise RowError("stop_token", f"response {k} does not end in the stop token.")

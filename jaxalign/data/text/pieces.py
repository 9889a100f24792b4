"""A conversation in parts: the prompt, a response, the pieces of a response, and the tokens that end a turn."""

import dataclasses

from jaxalign.data.text.templates import Message


@dataclasses.dataclass(frozen=True)
class Stops:
    """The tokens that end an assistant turn, as ids."""

    last: int  # the last turn of a conversation: where generation stops
    middle: int | None  # a turn that others follow; None: the template ends it with no token of its own
    call: int | None = None  # a turn that ends in a tool call, where that is another token

    def of(self, *, is_last: bool) -> tuple[int, ...]:
        """The ids that may end a turn."""
        return tuple(stop for stop in (self.last if is_last else self.middle, self.call) if stop is not None)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt as text and ids, up to where the response begins: what a model is asked to continue."""

    messages: tuple[Message, ...] | None  # None: plain text
    tools: tuple[dict, ...]
    text: str
    ids: list[int]  # with the BOS that plain text gets, which `text` does not hold
    notes: tuple[tuple[str, str], ...] = ()  # (rule, message) of what was changed


@dataclasses.dataclass(frozen=True)
class Response:
    """A response in tokens."""

    ids: list[int]
    scored: list[int]  # 1: trained
    notes: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Piece:
    """Part of a response: context, or a trained turn with what follows it."""

    text: str
    end: int | None  # where the row's own text ends in it, before the stop token; None: context
    stops: tuple[int, ...]

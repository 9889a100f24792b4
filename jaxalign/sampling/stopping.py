"""Why a sample ends: a stop token, a stop string, or its length."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Literal

Why = Literal["stop", "string", "length"]


@dataclasses.dataclass(frozen=True)
class Stopping:
    """When a sample ends.

    Raises:
      ValueError: an empty stop string, or limits that contradict each other.
    """

    max_new_tokens: int
    min_new_tokens: int = 0  # the first so many tokens are no stop tokens
    ids: tuple[int, ...] = ()  # a sample ends after any of these tokens
    strings: tuple[str, ...] = ()  # a sample ends where its text contains one of these

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1.")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(f"min_new_tokens={self.min_new_tokens} must be in [0, max_new_tokens={self.max_new_tokens}].")
        if "" in self.strings:
            raise ValueError("a stop string is empty, so that every sample would end before its first token; leave it out.")

    def first_string(self, text: str) -> int | None:
        """Where the first stop string of the text begins; None: it contains none."""
        places = [text.find(string) for string in self.strings]
        return min((place for place in places if place >= 0), default=None)

    def settled(self, text: str) -> str:
        """The part of a text that goes on which further tokens leave as it is: not half a character, nor what may begin a stop string."""
        whole = text.rstrip("\ufffd")
        begun = (size for string in self.strings for size in range(1, len(string)) if whole.endswith(string[:size]))
        return whole[: len(whole) - max(begun, default=0)]

    def tokens_before_string(self, ids: Sequence[int], text_of: Callable[[Sequence[int]], str]) -> int | None:
        """How many tokens it takes until the text contains a stop string; None: the text of all ids contains none."""
        if not self.strings or self.first_string(text_of(ids)) is None:
            return None
        low, high = 0, len(ids)  # the text of `low` tokens contains none, that of `high` does
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.first_string(text_of(ids[:middle])) is not None else (middle, high)
        return high

"""What a person may have meant by a name that there is not."""

from collections.abc import Iterable
import difflib


def closest(word: object, known: Iterable[str]) -> str | None:
    """The known name that is most like the word; None where none is."""
    return next(iter(difflib.get_close_matches(str(word), list(known), n=1)), None)


def meant(word: object, known: Iterable[str]) -> str:
    """" (did you mean NAME?)" with the closest known name; "" where there is none."""
    name = closest(word, known)
    return f" (did you mean {name}?)" if name else ""

"""What a person may have meant by a name that there is not."""

from collections.abc import Iterable
import difflib

TYPO = 0.85  # how like another a word is that differs by a letter


def closest(word: object, known: Iterable[str], *, least: float = 0.6) -> str | None:
    """The known name that is most like the word, in letters of any case; None where none is by `least`, from 0 to 1 (the same)."""
    by_letters = {name.lower(): name for name in known}
    return next((by_letters[name] for name in difflib.get_close_matches(str(word).lower(), list(by_letters), n=1, cutoff=least)), None)


def meant(word: object, known: Iterable[str]) -> str:
    """" (did you mean NAME?)" with the closest known name; "" where there is none."""
    name = closest(word, known)
    return f" (did you mean {name}?)" if name else ""

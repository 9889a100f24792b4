"""Labels of good and bad, in the spellings of public sets."""

from jaxalign.data.raw.counts import RowError

LABELS = ("label", "kto_tag")  # columns
WORDS = {
    **dict.fromkeys(("true", "yes", "good", "1", "+1", "positive", "chosen", "accepted", "desirable", "like", "up", "thumbs up"), True),
    **dict.fromkeys(("false", "no", "bad", "0", "-1", "negative", "rejected", "undesirable", "dislike", "down", "thumbs down"), False),
}


def word_of(value) -> str:
    """A label as a word of `WORDS` where it is one: 1, 1.0, True and "1" are the same, and the case does not matter."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower().replace("_", " ").removesuffix(".0")


def label_of(value) -> bool:
    """Whether a label says good.

    Raises:
      RowError: it says neither.
    """
    word = word_of(value)
    if not isinstance(value, (bool, int, float, str)) or word not in WORDS:
        raise RowError("wrong_type", f"label is {str(value)[:40]!r}; it must be true or false.")
    return WORDS[word]

"""When a sample ends."""

import pytest

from jaxalign.sampling.stopping import Stopping


def text_of(ids):
    return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("text", "strings", "tokens", "place"),
    [
        ("abcdef", ("cd",), 4, 2),
        ("abcdef", ("f", "b"), 2, 1),
        ("abcdef", ("x",), None, None),
        ("abcdef", (), None, None),
        ("ab", ("a",), 1, 0),
    ],
)
def test_a_string_ends_a_sample_at_the_token_that_completes_it(text, strings, tokens, place):
    stopping = Stopping(10, strings=strings)
    assert stopping.tokens_before_string([ord(c) for c in text], text_of) == tokens
    assert stopping.first_string(text) == place


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": 4, "min_new_tokens": 5}, "min_new_tokens=5"),
        ({"max_new_tokens": 4, "strings": ("a", "")}, "a stop string is empty"),
    ],
)
def test_limits_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Stopping(**options)

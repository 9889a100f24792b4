"""Progress in a log and on a terminal: what is counted, and the rate of tokens."""

import io
import re

import pytest

from jaxalign.data import progress


def plain(screen):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())  # without colours


@pytest.mark.parametrize("terminal", [False, True])
def test_the_rate_of_tokens_is_shown_where_they_are_counted(terminal, monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return terminal

    screen, clock = Screen(), [0.0]
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    with progress.bar(8, "generating", quiet=False, unit="samples", tokens=lambda: 12_000) as advance:
        clock[0] = 40.0
        advance(3)
    assert ("3/8 samples, 300 tokens/s" if terminal else "generating: 3 of 8 samples, 300 tokens/s\n") in plain(screen)
    screen.seek(0), screen.truncate()
    with progress.bar(8, "packing", quiet=False) as advance:
        clock[0] = 80.0
        advance(8)
    assert ("8/8 rows" if terminal else "8 of 8 rows\n") in plain(screen) and "tokens" not in plain(screen)

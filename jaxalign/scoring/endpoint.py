"""Replies of an OpenAI-compatible chat endpoint: with retries, kept on disk by content, by the standard library alone.

The key comes from an environment variable and goes into one header; it is in no file, no message and no error.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import email.utils
import hashlib
import http.client
import json
import os
from pathlib import Path
import queue
import random
import re
import tempfile
import threading
import time
from typing import Any
import urllib.error
import urllib.parse
import urllib.request

from jaxalign import paths
from jaxalign.scoring.faults import Fault

TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # of a server that is busy or restarts: asking again may help
LONGEST_WAIT_S = 60.0
LONGEST_REPLY = 4 * 2**20  # bytes
SHOWN = 200  # characters of a server's message
NO_SUCH_JSON = (ValueError, LookupError, TypeError, RecursionError)  # of a text that is no JSON, is too deep, or holds something else


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the key is for one host."""

    def redirect_request(self, *args):
        return None


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A chat model behind a URL.

    Raises:
      ValueError: url is none, or key_from is no name of an environment variable, or the key cannot stand in a header.
    """

    url: str  # up to what stands before /chat/completions, as https://HOST/v1
    model: str
    key_from: str | None  # environment variable that holds the key; where it is not set, no key is sent
    options: Mapping[str, Any]  # further fields of the request, as temperature
    timeout_s: float  # of one request
    retries: int  # after the first try
    wait_s: float  # before the first retry; it doubles from one to the next
    cache: Path | None  # folder that keeps replies; None keeps none

    def __post_init__(self):
        parts = urllib.parse.urlsplit(self.url)
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError(
                "the judge's url holds a user, a password or a query; end it before /chat/completions, and name the environment variable "
                "of a key with key_from."
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the judge's url {self.url!r} is not of the form https://HOST/v1.")
        if self.key_from is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_from):
            raise ValueError("key_from of the judge must be the name of an environment variable, like OPENAI_API_KEY, not the key itself.")
        if not all("!" <= letter <= "~" for letter in self._key):
            raise ValueError(f"the key in ${self.key_from} holds a blank, a line break or a character that no header may hold.")
        if self.cache:
            self.cache.mkdir(parents=True, exist_ok=True)

    def ask(self, messages: Sequence[Mapping[str, str]], *, keep: Callable[[str], bool]) -> str:
        """The reply to these messages, without the key where it repeats it; from the cache where it is there.

        Args:
          messages: with role and content.
          keep: whether a reply is worth keeping.

        Raises:
          Fault: "unreachable", "timeout", "overloaded", "malformed" after all retries; "refused" at once.
        """
        body = {**self.options, "model": self.model, "messages": list(messages)}
        file = self.cache and self.cache / f"{hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest()}.json"
        if file and (kept := _kept(file)) is not None:
            return kept
        for attempt in range(self.retries + 1):
            try:
                reply = self._request(body)
                break
            except Fault as fault:
                if attempt == self.retries or fault.rule == "refused":
                    raise Fault(fault.rule, f"{fault}{f' ({attempt + 1} tries)' if attempt else ''}") from None
                asked_to_wait = fault.__cause__.headers.get("Retry-After") if isinstance(fault.__cause__, urllib.error.HTTPError) else None
                time.sleep(_wait(attempt, self.wait_s, asked_to_wait))
        if file and keep(reply):
            _keep(file, {"url": self.url, **body, "reply": reply})
        return reply

    @property
    def _key(self):
        return os.environ.get(self.key_from, "").strip() if self.key_from else ""

    def _request(self, body) -> str:
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        until = time.monotonic() + self.timeout_s
        try:
            opener = urllib.request.build_opener(_NoRedirect)
            with _within(self.timeout_s, lambda: opener.open(request, timeout=self.timeout_s)) as response:
                text = _read(response, until)
        except urllib.error.HTTPError as error:
            rule = "overloaded" if error.code in TRANSIENT else "refused"
            raise Fault(rule, f"HTTP {error.code}: {self._message(error, until)}{self._way_out(error.code)}") from error
        except TimeoutError as error:
            raise Fault("timeout", f"no reply within {self.timeout_s:g} s.") from error
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, TimeoutError):
                raise Fault("timeout", f"no connection within {self.timeout_s:g} s.") from error
            raise Fault("unreachable", f"{type(reason).__name__}: {self._without_key(str(reason))}; is {self.url} right?") from error
        try:
            content = json.loads(text)["choices"][0]["message"]["content"]
        except NO_SUCH_JSON as error:
            answered = self._without_key(text.decode(errors="replace"))[:SHOWN]
            raise Fault("malformed", f"the server answered {answered!r}, which is no chat completion.") from error
        return self._without_key(content) if isinstance(content, str) else ""  # null: of a model that only thought

    def _message(self, error, until):
        """What the server says about an error, in a line."""
        try:
            text = _read(error, until).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return self._without_key(str(error.reason))[:SHOWN]
        try:
            text = str(json.loads(text)["error"]["message"])
        except NO_SUCH_JSON:
            pass
        return (" ".join(self._without_key(text).split()) or self._without_key(str(error.reason)))[:SHOWN]

    def _way_out(self, code):
        if code in (401, 403):
            there = "is not accepted" if self._key else "is not set"
            return f" (the key in ${self.key_from} {there})" if self.key_from else " (key_from names the environment variable of a key)"
        return ""

    def _without_key(self, text):
        return text.replace(self._key, "***") if self._key else text


def model_and_url(text: str) -> tuple[str, str]:
    """(model, url) of MODEL@https://HOST/v1.

    Raises:
      ValueError: the text is not of this form.
    """
    model, at, url = text.partition("@http")
    if not (model and at):
        raise ValueError(f"the judge {text!r} is not of the form MODEL@https://HOST/v1; or give dict(url=..., model=...).")
    return model, f"http{url}"


def made(
    *,
    url: str,
    model: str,
    key_from: str | None,
    options: Mapping[str, Any] | None,
    timeout_s: float,
    retries: int,
    wait_s: float,
    parallel: int,
    cache: str | None,
) -> Endpoint:
    """The endpoint of a judge, whose options are those of `judge.judge_of`.

    Raises:
      ValueError: an option is wrong.
    """
    for name, value, least in (("timeout_s", timeout_s, 1e-3), ("retries", retries, 0), ("wait_s", wait_s, 0), ("parallel", parallel, 1)):
        kinds = int if name in ("retries", "parallel") else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < float("inf"):
            raise ValueError(f"{name}={value!r} of the judge must be a{' whole' if kinds is int else ''} number from {least:g}.")
    fields = {"temperature": 0.0} if options is None else dict(options)
    folder = None if cache is None else paths.resolve(cache) if cache else paths.cache() / "judge"
    return Endpoint(url, model, key_from, fields, timeout_s, retries, wait_s, folder)


def _within(seconds, function):
    """What the function gives or raises, if it does so in time; a socket's own limit begins anew with every byte of the headers."""
    results = queue.SimpleQueue()

    def call():
        try:
            results.put((function(), None))
        except Exception as error:
            results.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        value, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return value


def _read(response, until):
    """The body of a response, as long as it comes in time: a server may send a byte now and then."""
    parts, size = [], 0
    while part := response.read1(2**16):
        parts.append(part)
        size += len(part)
        if time.monotonic() > until:
            raise TimeoutError
        if size > LONGEST_REPLY:
            raise http.client.HTTPException(f"a reply of more than {LONGEST_REPLY >> 20} MiB")
    return b"".join(parts)


def _wait(attempt, base, asked):
    """Seconds until the next try: what the server asks for, else twice as long each time, less up to a half at random."""
    seconds = base * 2**attempt * random.uniform(0.5, 1)
    if asked is not None:
        with contextlib.suppress(ValueError):  # neither seconds nor a date
            whole = asked.strip().isdecimal()
            seconds = float(asked) if whole else email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
    return min(max(seconds, 0.0), LONGEST_WAIT_S)


def _kept(file):
    """The reply in a file of the cache; None where it is not there, or not whole."""
    try:
        reply = json.loads(file.read_text(encoding="utf-8"))["reply"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return reply if isinstance(reply, str) else None


def _keep(file, content):
    """Writes a file of the cache, whole or not at all: a full disk costs a reply its copy, not the run its verdict."""
    with contextlib.suppress(OSError):
        with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".partial", delete=False, encoding="utf-8") as partial:
            json.dump(content, partial)
        os.replace(partial.name, file)

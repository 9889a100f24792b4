"""Checks that what is trained is what the row holds: its texts stand in the rendering, its markers are the template's, its ids decode back.

A template may trim white space, write markers around a text and escape it as JSON; a tokenizer may put a space after a marker. What its
normalizer changes in a text (NFC, lower case), a special token that is typed in a text, and what a template adds to an answer are counted.
Anything beyond that refuses the row by name.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
import json
import re

from jaxalign.data.raw.counts import RowError
from jaxalign.data.text.templates import Message
from jaxalign.data.text.tokenizer import Tokenizer

SHOWN = 60  # characters of a text in a message
NOT_ALWAYS_WRITTEN = ("name", "tool_call_id", "reasoning_content")  # fields of a message; a template may do without


def shorten(text: str) -> str:
    """A text for a message: quoted, its middle left out where it is long."""
    half = SHOWN // 2
    return repr(text if len(text) <= SHOWN else f"{text[:half]} ... {text[-half:]}")


def find(text: str, whole: str, start: int = 0) -> int | None:
    """Where a text ends in a rendering, from `start` on; 0 where only its white space differs, None where it is not there."""
    stripped = text.strip()
    at = whole.find(stripped, start)
    if at >= 0:
        return at + len(stripped)
    for escaped in _escaped(stripped):
        at = whole.find(escaped, start)
        if at >= 0:
            return at + len(escaped)
    return 0 if "".join(stripped.split()) in "".join(whole.split()) else None


def _escaped(text):
    return json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]


def end_of_answer(turn: Message, rendered: str, *, template: str, thought: str | None, way: str) -> int:
    """Where the row's own text ends in the rendering of an assistant turn, which must hold all of it.

    Args:
      rendered: what the template writes from where the turn begins.
      thought: the reasoning that must stand before the answer; None: none.
      way: the settings that handle thoughts, for a message.

    Raises:
      RowError: a text (rule "template_text"), the reasoning ("reasoning") or a tool call ("tool_calls") is not written.
    """
    end = 0
    if thought is not None:
        place = find(thought, rendered)
        if place is None:
            raise RowError(
                "reasoning",
                f"template {template!r} does not write the reasoning {shorten(thought)} of an answer, but {shorten(rendered)}; set {way}.",
            )
        end = place
    if turn["content"].strip():
        place = find(turn["content"], rendered, end)
        if place is None:
            why = f"; set {way}" if "</think>" in turn["content"] else "; use another template"
            raise RowError(
                "template_text",
                f"template {template!r} does not write the text of the answer {shorten(turn['content'])} as it is, but "
                f"{shorten(rendered)}{why}.",
            )
        end = max(end, place)
    for text in _texts_of_calls(turn.get("tool_calls", ())):
        place = find(text, rendered)
        if place is None:
            raise RowError("tool_calls", f"template {template!r} does not write {shorten(text)} of a tool call; use a template with tools.")
        end = max(end, place)
    _check_numbers(turn, rendered, template)
    return end


def _check_numbers(turn, rendered, template):
    # A number, or true and false, must be written as often as the turn has it, its texts included.
    leaves = [leaf for call in turn.get("tool_calls", ()) for leaf in _leaves(call["function"]["arguments"])]
    values = collections.Counter(json.dumps(leaf) for leaf in leaves if isinstance(leaf, (bool, int, float)))
    texts = list(texts_of([{key: value for key, value in turn.items() if key != "name"}])) if values else []
    for value, count in values.items():
        spelled = re.compile("|".join(rf"(?<![\w.]){re.escape(text)}(?![\w.])" for text in {value, value.capitalize()}))
        needed = count + sum(min(len(spelled.findall(form)) for form in (text, *_escaped(text))) for text in texts)
        if len(spelled.findall(rendered)) < needed:
            raise RowError("tool_calls", f"template {template!r} does not write {value} of a tool call; use a template with tools.")


def check_context(messages: Sequence[Message], rendered: str, *, template: str) -> None:
    """Refuses a conversation whose system, user or tool texts are not in its rendering (rule "template_text")."""
    for message in messages:
        if message["role"] != "assistant" and find(message["content"], rendered) is None:
            raise RowError(
                "template_text",
                f"template {template!r} does not write the {message['role']} text {shorten(message['content'])}; use another template.",
            )


def unwritten(messages: Sequence[Message], rendered: str, *, template: str) -> tuple[tuple[str, str], ...]:
    """(rule, message) of what a rendering leaves out beside what must be in it: names, ids of calls, thoughts and answers of past turns."""
    notes: dict[str, str] = {}
    for message in messages:
        fields = [*NOT_ALWAYS_WRITTEN, *(["content"] if message["role"] == "assistant" else [])]
        for field in fields:
            if message.get(field) and find(message[field], rendered) is None:
                what = f"the {field} {shorten(message[field])} of the {message['role']} turn"
                notes.setdefault(f"unwritten_{field}", f"template {template!r} does not write {what}")
    return tuple(notes.items())


def added(turn: Message, rendered: str, tokenizer: Tokenizer, *, stops: Sequence[str], template: str) -> tuple[tuple[str, str], ...]:
    """(rule, message) of a text that a template writes between an answer and the token that ends it; calls of tools may stand there."""
    own, written = turn["content"].strip(), rendered
    for stop in stops:
        written = written.partition(stop)[0]
    place = written.rfind(own) if own and not turn.get("tool_calls") else -1
    after = tokenizer.special_pattern.sub("", written[place + len(own) :]).strip() if place >= 0 else ""
    if not after:
        return ()
    what = f"template {template!r} writes {shorten(after)} between the answer {shorten(own)} and its stop token, which is trained too"
    return (("text_after_answer", f"{what}; use another template if the model should not write it"),)


def typed_tokens(texts: Iterable[str], tokenizer: Tokenizer) -> tuple[tuple[str, str], ...]:
    """(rule, message) of the first text that holds a special token in letters, which the tokenizer reads as that token."""
    for text in texts:
        typed = tokenizer.control_pattern.search(text)
        if typed and tokenizer.model.token_to_id(typed[0]) in tokenizer.encode(text):
            where = shorten(text[max(0, typed.start() - 20) : typed.end() + 20])
            what = f"a text holds {typed[0]!r}: {where}, which the tokenizer reads as its special token of that name"
            return (("typed_token", f"{what}; take it out of the data if it is meant as letters"),)
    return ()


def check_markers(texts: Iterable[str], pattern: re.Pattern, *, bos: str | None, stops: Sequence[str]) -> None:
    """Refuses a row in whose texts a marker is typed: the tokenizer would take it for the template's own.

    Raises:
      RowError: rule "bos", "stop_token" or, for another marker, "special_token".
    """
    for text in texts:
        typed = pattern.search(text)
        if typed is None:
            continue
        token, where = typed[0], shorten(text[max(0, typed.start() - 20) : typed.end() + 20])
        if token in stops:
            raise RowError("stop_token", f"a text holds the stop token {token!r}: {where}; take it out of the data.")
        if token == bos:
            raise RowError("bos", f"BOS {token!r} stands inside the row: a text contains it: {where}; take it out of the data.")
        raise RowError(
            "special_token",
            f"a text holds the special token {token!r}, which the template itself writes: {where}. Is the text rendered already? Give "
            "the plain text, or take the token out.",
        )


def texts_of(messages: Sequence[Message]) -> Iterable[str]:
    """Every text of a conversation that a template may write."""
    for message in messages:
        yield message["content"]
        for key in ("reasoning_content", "name"):
            if key in message:
                yield message[key]
        if "tool_calls" in message:
            yield from _texts_of_calls(message["tool_calls"])


def check_tokens(tokenizer: Tokenizer, before: Sequence[int], ids: Sequence[int], text: str) -> tuple[tuple[str, str], ...]:
    """(rule, message) of what the tokenizer's normalizer changes in a text; () where its ids decode back to it.

    Args:
      before: the ids to their left, in whose context they are decoded.

    Raises:
      RowError: they decode to another text, which no normalization explains (rule "lossy_tokens").
    """
    if not tokenizer.adds_space and tokenizer.decode(ids) == text:
        return ()
    decoded = tokenizer.decode_after(before, ids)
    # A tokenizer may put spaces beside special tokens.
    texts = [[piece.strip(" \n") for piece in tokenizer.special_pattern.split(side)] for side in (decoded, text)]
    if decoded == text or texts[0] == texts[1]:
        return ()
    place = next((i for i, (a, b) in enumerate(zip(decoded, text, strict=False)) if a != b), min(len(decoded), len(text)))
    start = max(0, place - SHOWN // 2)
    now, own = (shorten(side[start : place + SHOWN // 2]) for side in (decoded, text))
    if _normalized(tokenizer, texts[0]) == _normalized(tokenizer, texts[1]):
        return (("normalized_text", f"the tokenizer's normalizer makes {now} of {own}; that is what the model sees and learns"),)
    raise RowError(
        "lossy_tokens",
        f"the tokens of an answer decode to {now}, but its text is {own}: the tokenizer cannot write it; use another tokenizer, or leave "
        "such rows out.",
    )


def unknown(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> tuple[tuple[str, str], ...]:
    """(rule, message) of a prompt for a part of which the tokenizer has no token; it is not trained, and so not refused."""
    if tokenizer.unknown_id is None or tokenizer.unknown_id not in ids:
        return ()
    what = f"the tokenizer has no token for a part of the prompt {shorten(text)}"
    return (("unknown_token", f"{what}; the model sees {tokenizer.model.id_to_token(tokenizer.unknown_id)!r} there"),)


def _normalized(tokenizer, pieces):
    normalizer = tokenizer.model.normalizer
    return pieces if normalizer is None else [normalizer.normalize_str(piece).replace("▁", " ").strip(" \n") for piece in pieces]


def _texts_of_calls(calls):
    for call in calls:
        yield call["function"]["name"]
        yield from (leaf for leaf in _leaves(call["function"]["arguments"]) if isinstance(leaf, str))


def _leaves(value):
    # the keys and values of arguments
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value

"""JSON and Python notation, as files hold rows and text columns hold lists and objects: one parser, which refuses a repeated key."""

import ast
import io
import json
from pathlib import Path
import tokenize

from jaxalign.data.raw.counts import RowError


class _Repeated(dict):
    """An object with a key that stands twice: `key`. Python would keep the last value and drop the others."""

    key = ""


def repeated_key(value: dict) -> str | None:
    """The key that stands twice in an object that `loads` has read, None where none does."""
    return value.key if isinstance(value, _Repeated) else None


def repeated(key: object) -> RowError:
    """The error of a row in which a key stands twice in one object."""
    return RowError("repeated_key", f"the key {str(key)[:40]!r} stands twice in one object; keep one of them.")


def loads(text: str) -> object:
    """The value of a JSON text; `repeated_key` finds objects in it that Python would cut short.

    Raises:
      ValueError, RecursionError: it is not JSON.
    """
    return json.loads(text, object_pairs_hook=_object)


def read(text: str) -> object:
    """The value of a JSON text that stands in a column.

    Raises:
      RowError: a key stands twice in one object (rule "repeated_key").
      ValueError, RecursionError: it is not JSON.
    """
    return json.loads(text, object_pairs_hook=_whole)


def read_file(file: Path) -> object:
    """The value of a JSON file of a checkpoint or a tokenizer.

    Raises:
      ValueError: it is not JSON, or a key stands twice in one object; the message names the file.
    """
    try:
        return read(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error} Mend it, or download or copy it again.") from error


def read_python(text: str) -> object:
    """The value of a text in Python notation, as pandas writes lists and dicts into tables.

    Raises:
      RowError: a key stands twice in one dict, or two texts have no comma between them (rules "repeated_key", "written_list").
      ValueError, SyntaxError, RecursionError, MemoryError: it is none.
    """
    tree = ast.parse(text.strip(), mode="eval")
    value = ast.literal_eval(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            _whole([(ast.literal_eval(key), None) for key in node.keys if key is not None])
    kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline) if token.type != tokenize.NL]
    if (tokenize.STRING, tokenize.STRING) in zip(kinds, kinds[1:], strict=False):
        raise RowError("written_list", f"{text[:40]!r} has no comma between its texts, as numpy writes lists; write them as JSON.")
    return value


def read_list(text: str) -> list | None:
    """The list that a text writes out in JSON or Python notation; None for other text.

    Raises:
      RowError: as `read` and `read_python`.
    """
    if not text.lstrip().startswith("["):
        return None
    for reader in (read, read_python):
        try:
            value = reader(text)
        except RowError:
            raise
        except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            continue
        return value if isinstance(value, list) else None
    return None


def _object(pairs):
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    twice = _Repeated(made)
    twice.key = _first_twice(pairs)
    return twice


def _whole(pairs):
    made = dict(pairs)
    if len(made) < len(pairs):
        raise repeated(_first_twice(pairs))
    return made


def _first_twice(pairs):
    keys = [key for key, _ in pairs]
    return next(key for key in keys if keys.count(key) > 1)

"""Raw rows with random access: local files, folders saved by `datasets`, names of the Hugging Face hub, and TFDS names.

A source is a dict of the keys in `config.schema.SOURCE`. One of "path", "hf", "tfds" names its rows; "rename" ({ours: theirs}) renames
columns, "text.0" and "metadata.score" reach into one, and {name: None} leaves one out. "package:NAME" paths lie in jaxalign/assets.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import datetime
import decimal
import math
import re
from typing import Any
import uuid

from jaxalign import suggest
from jaxalign.data.raw import files, libraries, notation
from jaxalign.data.raw.counts import Counts, RowError
from jaxalign.data.raw.records import REPLACED

SPLIT = re.compile(r"(?P<name>[\w.\-/]*)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")
DEEPEST = 50  # lists and objects in each other


class Rows:
    """Raw rows of a source: `len`, `[i]` (a dict, or a RowError is raised), and `identity`, which differs whenever the rows differ."""

    def __init__(
        self, items: Sequence, *, name: str, identity: str, columns: Mapping[str, str | None] | None = None, span: range | None = None
    ):
        self.name = name
        self.identity = identity
        self._items = items
        self._columns = {ours: theirs for ours, theirs in (columns or {}).items() if theirs is not None}
        self._left_out = {ours for ours, theirs in (columns or {}).items() if theirs is None}
        self._span = range(len(items)) if span is None else span

    @property
    def renamed(self) -> tuple[str, ...]:
        """The data set's names, or paths, of columns that have another name here."""
        return tuple(sorted(self._columns.values()))

    def __len__(self) -> int:
        return len(self._span)

    def __getitem__(self, number: int) -> dict:
        row = self._raw(number)
        kept = {name: value for name, value in row.items() if name not in self._left_out}
        renamed = {ours: _reach(row, theirs, self.name, number) for ours, theirs in self._columns.items()}
        replaced = {ours: kept[ours] for ours, value in renamed.items() if ours in kept and kept[ours] != value}
        return {**kept, **renamed, **({REPLACED: replaced} if replaced else {})}

    def _raw(self, number):
        try:
            row = _plain(self._items[self._span[number]])
        except UnicodeDecodeError as error:
            raise RowError("encoding", f"{self.name}: row {number} holds bytes that are not UTF-8: {error.reason}.") from error
        if not isinstance(row, dict):
            raise RowError("wrong_type", f"{self.name}: row {number} is {str(row)[:40]!r}; a row must be an object with named columns.")
        return row

    def absent(self) -> list[str]:
        """Columns that `rename` leaves out and no row has, each with the name of one that rows have and it may mean."""
        absent, names = set(self._left_out), {}
        for number in range(len(self)):
            if not absent:
                break
            with contextlib.suppress(RowError):
                row = self._raw(number)
                absent -= row.keys()
                names |= dict.fromkeys(row)
        return [name + suggest.meant(name, names) for name in sorted(absent)]

    def read(self, number: int) -> dict | RowError:
        """The row, or the error of a row that cannot be read."""
        try:
            return self[number]
        except RowError as error:
            return error


    def each(self, make: Callable[[dict, int], Any], counts: Counts, *, numbers: Iterable[int] | None = None) -> Iterator[Any]:
        """Yields make(row, its number) in order; a row that cannot be read, or that `make` refuses, is counted as dropped.

        Args:
          make: raises RowError where a row breaks a rule.
          numbers: of the rows; None: all.
        """
        for number in range(len(self)) if numbers is None else numbers:
            counts.read += 1
            try:
                made = make(self[number], number)
            except RowError as error:
                counts.add(error.rule, "dropped", number, str(error))
            else:
                counts.kept += 1
                yield made


def given(source: Mapping) -> dict:
    """The keys of a source that are set."""
    return {key: value for key, value in source.items() if value is not None}


def read(source: Mapping) -> Rows:
    """The rows of a source.

    Raises:
      FileNotFoundError, ValueError: with the file and the way out.
    """
    split = source.get("split")
    match = SPLIT.fullmatch(split or "")
    if match is None:
        raise ValueError(f"split {split!r} is not of the form name, name[:90%], name[90%:] or name[100:200].")
    if source.get("path") is not None:
        name, (items, identity) = _local(source["path"], match["name"])
    elif source.get("hf") is not None:
        whole = match["start"] is None and match["stop"] is None
        name, (items, identity) = source["hf"], libraries.hub(source, match["name"], whole=whole)
    else:
        name, (items, identity) = source["tfds"], libraries.tfds(source, match["name"])
    # A TFDS or hub split is cut by its library's own rules only where they are the same as ours: by name[start:stop].
    span = _span(len(items), match)
    span = span if source.get("limit") is None else span[: source["limit"]]
    if not span:
        raise ValueError(f"{name} has no rows" + (f" in split {split!r} (of {len(items)})" if len(items) else " (it is empty)") + ".")
    return Rows(items, name=name, identity=identity, columns=source.get("rename"), span=span)


def _local(given, split):
    paths = files.paths_of(given)
    name = str(given) if isinstance(given, str) else str(given[0])
    name += "" if len(paths) == 1 or isinstance(given, str) else f" and {len(paths) - 1} more"
    return name, files.joined([libraries.saved_folder(path, split) if path.is_dir() else files.read(path) for path in paths])


def _span(total, match):
    def place(text, default):
        if text is None:
            return default
        value = math.floor(total * float(text[:-1]) / 100 + 0.5) if text.endswith("%") else int(text)
        return max(0, min(total, value + total if value < 0 else value))

    return range(place(match["start"], 0), place(match["stop"], total))


def _plain(value, depth=0):
    # TFDS gives bytes, numpy numbers and arrays, arrow gives dates; formats, and what writes rows, know text, numbers, lists and dicts.
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, (dict, list, tuple)):
        if depth == DEEPEST:
            raise RowError("nested", f"lists or objects stand more than {DEEPEST} deep in each other; a row is a flat object.")
        if not isinstance(value, dict):
            return [_plain(item, depth + 1) for item in value]
        twice = notation.repeated_key(value)
        if twice is not None:
            raise notation.repeated(twice)
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, uuid.UUID):
        return str(value)
    return _plain(value.tolist(), depth) if type(value).__module__ == "numpy" else value


def _reach(row, path, name, number):
    value = row
    for part in [path] if path in row else path.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            what = f"{name}: row {number} has no column {path!r}, only {', '.join(sorted(row))}{suggest.meant(path, row)}"
            raise RowError("missing_column", f"{what}; mend `rename`.") from error
    return value

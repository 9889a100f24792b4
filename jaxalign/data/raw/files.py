"""Rows of local files: .jsonl, .json, .csv, .tsv and .parquet, each also with .gz; several files and globs are one source.

A line that cannot be read is a RowError when it is asked for, so that one bad line does not end a run. What a file may expand to, and the
length of a line, are bounded.
"""

import bisect
from collections.abc import Sequence
import contextlib
import csv
import glob
import gzip
import hashlib
import io
import itertools
import json
import mmap
from pathlib import Path
import zlib

from jaxalign.data.raw import arrow, notation
from jaxalign.data.raw.counts import RowError
from jaxalign.paths import nearby, resolve

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
LINE_BYTES = 64 << 20  # longest line, and longest cell of a table
EXPANSION = 200  # a compressed file may be this many times as long unpacked: text is 3 to 20 times, zeros are 1,000 times
EXPANSION_BYTES = 64 << 20  # below this size any expansion is harmless
CHUNK = 1 << 20
BINARY = {
    b"PAR1": "a parquet file; name it .parquet",
    b"\x1f\x8b": "compressed with gzip; name it .gz",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it",
    b"BZh": "compressed with bzip2; unpack it",
    b"\xfd7zXZ": "compressed with xz; unpack it",
    b"ARROW1": "an arrow file; give the folder that save_to_disk wrote",
    b"\xff\xfe": "UTF-16 text; convert it with iconv -f utf-16 -t utf-8",
    b"\xfe\xff": "UTF-16 text; convert it with iconv -f utf-16 -t utf-8",
}


def paths_of(given: str | Sequence[str]) -> list[Path]:
    """The files that a path, a glob, or a list of both names: a glob in the order of the names, the list in its own.

    Raises:
      FileNotFoundError: one of them names nothing.
      ValueError: a file is named twice: its rows would train twice.
    """
    found: list[Path] = []
    names: dict[Path, str] = {}  # the file behind a path -> what named it
    for text in [given] if isinstance(given, str) else given:
        path = resolve(text)
        matches = [path] if path.exists() else [Path(name) for name in sorted(set(glob.glob(str(path), recursive=True)))]
        if not matches:
            raise FileNotFoundError(f"there is no data at {text!r}; {nearby(path)}")
        for match in matches:
            file = match.resolve()
            if file in names:
                twice = f"path names {match} twice, by {names[file]!r} and by {text!r}"
                raise ValueError(f"{twice}; name every file once, and let rows count more by the weight of their source.")
            names[file] = text
            found.append(match)
    if not found:
        raise FileNotFoundError("path=() names no file; give at least one.")
    return found


def read(path: Path) -> tuple[Sequence, str]:
    """(the rows of one file, its identity); asking for a row that cannot be read raises a RowError.

    Raises:
      ValueError: the file has an unknown suffix, is empty, damaged, binary, or expands beyond all bounds.
    """
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = suffixes[-1].lower() if suffixes else ""
    if kind not in SUFFIXES:
        raise ValueError(f"{path} ends in {''.join(path.suffixes[-2:]) or 'nothing'}; known are {', '.join(SUFFIXES)}, each also with .gz.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); was its download or export cut off?")
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    identity = f"sha256:{hashlib.sha256(data).hexdigest()}"
    data = _unzipped(path, by_line=kind == ".jsonl") if path.suffix == ".gz" else data
    if kind != ".parquet":
        _refuse_binary(path, data[:4096])
    return {".jsonl": _lines, ".json": _json, ".csv": _table, ".tsv": _table, ".parquet": arrow.parquet}[kind](data, path), identity


def joined(parts: list[tuple[Sequence, str]]) -> tuple[Sequence, str]:
    """The rows of several files as one sequence, and their common identity."""
    if len(parts) == 1:
        return parts[0]
    identity = hashlib.sha256("\n".join(identity for _, identity in parts).encode()).hexdigest()
    return _Joined([rows for rows, _ in parts]), f"sha256s:{identity}"


class _Joined(Sequence):
    def __init__(self, parts):
        self._parts = parts
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    def __len__(self):
        return self._ends[-1]

    def __getitem__(self, i):
        part = bisect.bisect_right(self._ends, i)
        return self._parts[part][i - (self._ends[part - 1] if part else 0)]


class _Lines(Sequence):
    """JSON lines in a buffer, parsed when asked for."""

    def __init__(self, data, path):
        self._data, self._path = data, path
        self._spans = []  # (number of the line, start, end)
        start = 3 if data[:3] == b"\xef\xbb\xbf" else 0
        for number in itertools.count(1):
            end = data.find(b"\n", start)
            end = len(data) if end < 0 else end
            if end - start > LINE_BYTES or data[start:end].strip():
                self._spans.append((number, start, end))
            if end == len(data):
                return
            start = end + 1

    def __len__(self):
        return len(self._spans)

    def __getitem__(self, i):
        number, start, end = self._spans[i]
        if end - start > LINE_BYTES:
            raise RowError("line_too_long", f"{self._path}, line {number}: {(end - start) >> 20} MiB; at most {LINE_BYTES >> 20} are read.")
        line = self._data[start:end]
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(f"{self._path}, line {number}", line[error.start]) from error
        return _parsed(text, f"{self._path}, line {number}")


def _not_utf8(where, byte):
    what = f"byte 0x{byte:02x} is not UTF-8"
    return RowError("encoding", f"{where}: {what}; convert the file, for example with iconv -f latin1 -t utf-8.")


def _parsed(text, where):
    try:
        return notation.loads(text)
    except json.JSONDecodeError as error:
        raise RowError("json", f"{where}: not valid JSON: {error.msg} at column {error.colno}. Mend or remove the line.") from error
    except RecursionError as error:
        raise RowError("nested", f"{where}: lists or objects stand too deep in each other; a row is a flat object.") from error
    except ValueError as error:  # an integer of more than 4,300 digits
        raise RowError("json", f"{where}: {str(error)[:80]}. Mend or remove the line.") from error


def _lines(data, path):
    return _Lines(data, path)


def _json(data, path):
    # A byte that is not UTF-8 becomes half a surrogate pair: the rule "unicode" refuses its row, and no other.
    text = data[:].decode("utf-8-sig", errors="surrogateescape")
    try:
        rows = notation.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and "\n" in text[: error.pos]:
            return _Lines(data, path)  # one row a line, under the name of a list
        raise ValueError(f"{path}, line {error.lineno}: not valid JSON: {error.msg} at column {error.colno}. Mend the file.") from error
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not valid JSON: {str(error)[:80]}. Mend the file, or write one row per line as .jsonl.") from error
    if isinstance(rows, dict) and "data" in rows:
        columns = {name for row in rows["data"] if isinstance(row, dict) for name in row} if isinstance(rows["data"], list) else set()
        lists = [name for name, value in rows.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
        lists += [name for name, value in rows.items() if name not in ("data", *lists) and _holds_rows(value, columns)]
        if len(lists) > 1:
            raise ValueError(f"{path} holds the lists {', '.join(lists)}; data alone would be read. Write each into its own file.")
        rows = rows["data"]
    elif isinstance(rows, dict) and "\n" not in text.strip():
        return _Lines(data, path)  # a single row
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a {type(rows).__name__}; a .json file must hold a list of rows. One row a line is .jsonl.")
    return rows


def _holds_rows(value, columns, *, listed=False):
    # whether somewhere in it is a list of objects that have a column of the rows
    if isinstance(value, dict):
        return (listed and not columns.isdisjoint(value)) or any(_holds_rows(item, columns) for item in value.values())
    return isinstance(value, list) and any(_holds_rows(item, columns, listed=True) for item in value)


class _Cells(Sequence):
    """Rows of a table of text, as dicts of its header."""

    def __init__(self, header, rows, path):
        self._header, self._rows, self._path = header, rows, path

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, i):
        line, cells = self._rows[i]
        if len(cells) != len(self._header):
            count = f"{len(cells)} cells under {len(self._header)} columns"
            raise RowError("cells", f"{self._path}, line {line}: {count}; put cells with commas in quotes.")
        try:
            "".join(cells).encode("utf-8")
        except UnicodeEncodeError as error:  # half a surrogate pair stands for a byte
            raise _not_utf8(f"{self._path}, line {line}", ord(error.object[error.start]) - 0xDC00) from error
        return dict(zip(self._header, cells, strict=True))


def _table(data, path):
    text = data[:].decode("utf-8-sig", errors="surrogateescape")
    head = text.partition("\n")[0]
    delimiter = "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ";" if "," not in head and ";" in head else ","
    header, *rows = _cells(text, delimiter, path) or [(0, [])]
    # A quote after a space opens no cell for the csv module, but does for whoever writes names and cells after "comma, space".
    if header[1][1:] and all(name.startswith(" ") for name in header[1][1:]) or _after_spaces([header, *rows]):
        with contextlib.suppress(ValueError):
            spaced = _cells(text, delimiter, path, skipinitialspace=True)
            if _after_spaces(spaced) < max(_after_spaces([header, *rows]), 1):
                header, *rows = spaced
    names = [name.strip() for name in header[1]]
    if len(set(names)) < len(names) or "" in names:
        index = "; the first column has no name: is it pandas' index? Write the table with index=False" if names[0] == "" else ""
        raise ValueError(f"{path}: the first line must name every column once; it is {head[:80]!r}{index}.")
    return _Cells(names, rows, path)


def _cells(text, delimiter, path, **options):
    # (number of its last line, cells) of every row of a table
    limit = csv.field_size_limit(LINE_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, **options)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}; put cells with commas, quotes or line breaks in quotes, and double quotes in them."
        ) from error
    finally:
        csv.field_size_limit(limit)


def _after_spaces(rows):
    # cells that begin with a quote after a space
    return sum(cell.startswith(' "') for _, cells in rows for cell in cells)


def _unzipped(path, *, by_line):
    # in pieces, so that what expands beyond all bounds is refused before it fills the memory
    size, unpacked, line = path.stat().st_size, bytearray(), 0
    try:
        with gzip.open(path) as file:
            while chunk := file.read(CHUNK):
                kept = _short(chunk, line) if by_line else chunk
                line = len(chunk) - chunk.rfind(b"\n") - 1 if b"\n" in chunk else line + len(chunk)
                unpacked += kept
                if file.tell() > max(EXPANSION * size, EXPANSION_BYTES):
                    raise ValueError(
                        f"{path} ({size:,} bytes) unpacks to more than {EXPANSION} times its size, which no text does; it is damaged, or "
                        "made to fill the memory. Get the file again."
                    )
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}. Get the file again.") from error
    return bytes(unpacked)


def _short(chunk, line):
    # a chunk without what goes on with a line that is too long already: one byte more than allowed marks the line
    if line <= LINE_BYTES:
        return chunk
    end = chunk.find(b"\n")
    return b"" if end < 0 else chunk[end:]


def _refuse_binary(path, head):
    kind = next((kind for magic, kind in BINARY.items() if head.startswith(magic)), None)
    if kind is None and b"\0" in head:
        kind = "binary data; give a text file or a .parquet file"
    if kind is not None:
        raise ValueError(f"{path} is no text: it is {kind}.")

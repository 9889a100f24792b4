"""Raw rows with random access: local json, jsonl and parquet files, saved `datasets` folders, hub names, and TFDS names.

A source is a dict: {"path": ...} or {"hf": name, "config": ..., "split": ...} or {"tfds": name, "split": ...}, with optional "limit"
and "rename" ({ours: theirs}; "text.0" and "metadata.score" reach into a column). "package:NAME" paths lie in jaxalign/assets.
"""

from collections.abc import Mapping, Sequence
import gzip
import hashlib
import json
import math
import re
import zlib

from jaxalign.paths import nearby, resolve

SUFFIXES = (".json", ".jsonl", ".parquet")
SPLIT = re.compile(r"(?P<name>[\w.\-/]*)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


class Rows:
    """Raw rows of a source: `len`, `[i]` (a dict), and `identity`, which differs whenever the rows differ."""

    def __init__(self, items: Sequence, *, name: str, identity: str, rename: Mapping[str, str] | None = None, span: range | None = None):
        self.name = name
        self.identity = identity
        self._items = items
        self._rename = dict(rename or {})
        self._span = range(len(items)) if span is None else span

    def __len__(self) -> int:
        return len(self._span)

    def __getitem__(self, number: int) -> dict:
        row = _plain(self._items[self._span[number]])
        if not isinstance(row, dict):
            raise ValueError(f"{self.name}: row {number} is {str(row)[:40]!r}; a row must be an object with named columns.")
        return {**row, **{ours: _reach(row, theirs, self.name, number) for ours, theirs in self._rename.items()}}


def read(source: Mapping) -> Rows:
    """The rows of a source.

    Raises:
      FileNotFoundError, ValueError: with the file, the line where there is one, and the way out.
    """
    kinds = [kind for kind in ("path", "hf", "tfds") if source.get(kind)]
    if len(kinds) != 1:
        raise ValueError(f"a source needs exactly one of path, hf and tfds; this one has {kinds or 'none'}.")
    name = str(source[kinds[0]])
    split = source.get("split")
    items, identity = {"path": _local, "hf": _hub, "tfds": _tfds}[kinds[0]](name, source)
    # A TFDS or hub split is cut by its library's own rules only where they are the same as ours: by name[start:stop].
    span = _span(len(items), split)
    if source.get("limit") is not None:
        if source["limit"] < 1:
            raise ValueError(f"limit={source['limit']} of {name} must be at least 1; leave it out for all rows.")
        span = span[: source["limit"]]
    if not span:
        raise ValueError(f"{name} has no rows" + (f" in split {split!r} (of {len(items)})" if len(items) else " (it is empty)") + ".")
    return Rows(items, name=name, identity=identity, rename=source.get("rename"), span=span)


def _split_name(split):
    match = SPLIT.fullmatch(split or "")
    if match is None:
        raise ValueError(f"split {split!r} is not of the form name, name[:90%], name[90%:] or name[100:200].")
    return match["name"]


def _span(total, split):
    _split_name(split)
    match = SPLIT.fullmatch(split or "")

    def place(text, default):
        if text is None:
            return default
        value = math.floor(total * float(text[:-1]) / 100 + 0.5) if text.endswith("%") else int(text)
        return max(0, min(total, value + total if value < 0 else value))

    return range(place(match["start"], 0), place(match["stop"], total))


def _local(name, source):
    path = resolve(name)
    if not path.exists():
        raise FileNotFoundError(f"there is no data at {name!r}; {nearby(path)}")
    if path.is_dir():
        return _saved_folder(path, source)
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    if kind not in SUFFIXES:
        raise ValueError(f"{name} ends in {''.join(path.suffixes[-2:]) or 'nothing'}; known are {', '.join(SUFFIXES)}, each also with .gz.")
    if path.stat().st_size == 0:
        raise ValueError(f"{name} is empty (0 bytes); was its download or export cut off?")
    data = path.read_bytes()
    identity = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{name} is damaged or cut short: {error}. Get the file again.") from error
    items = {".jsonl": _json_lines, ".json": _json_list, ".parquet": _parquet}[kind](data, name)
    return items, identity


class _Lines(Sequence):
    """JSON lines, parsed when asked for."""

    def __init__(self, lines, name):
        self._lines = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        self._name = name

    def __len__(self):
        return len(self._lines)

    def __getitem__(self, i):
        number, line = self._lines[i]
        return _parse(line, self._name, number)


def _json_lines(data, name):
    return _Lines(data.split(b"\n"), name)


def _json_list(data, name):
    rows = _parse(data, name, None)
    if isinstance(rows, dict) and "data" in rows:
        rows = rows["data"]
    if not isinstance(rows, list):
        raise ValueError(f"{name} holds a {type(rows).__name__}; a .json file must hold a list of rows. One row a line is .jsonl.")
    return rows


def _parse(data, name, line):
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        at = data[: error.start].count(b"\n") + 1 if line is None else line
        raise ValueError(
            f"{name}, line {at}: byte 0x{data[error.start]:02x} at place {error.start} is not UTF-8; convert the file, for example "
            f"with iconv -f latin1 -t utf-8."
        ) from error
    except json.JSONDecodeError as error:
        at = error.lineno if line is None else line
        raise ValueError(f"{name}, line {at}: not valid JSON: {error.msg} at column {error.colno}. Mend or remove the line.") from error


def _parquet(data, name):
    import pyarrow  # slow to import, needed for this format only
    import pyarrow.parquet

    try:
        return _Table(pyarrow.parquet.read_table(pyarrow.BufferReader(data)))
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{name} is no parquet file or is damaged: {error}. Get the file again.") from error


class _Table(Sequence):
    def __init__(self, table):
        self._table = table

    def __len__(self):
        return self._table.num_rows

    def __getitem__(self, i):
        return {name: column[0].as_py() for name, column in zip(self._table.column_names, self._table.slice(i, 1).columns, strict=True)}


def _saved_folder(path, source):
    import datasets  # slow to import, needed for this kind only

    if not (path / "dataset_info.json").is_file() and not (path / "dataset_dict.json").is_file():
        raise ValueError(f"{path} is a folder without dataset_info.json or dataset_dict.json; give a file, or a save_to_disk folder.")
    data = datasets.load_from_disk(str(path))
    return _with_split(data, path, source, datasets)


def _hub(name, source):
    import datasets  # slow to import, needed for this kind only

    split = _split_name(source.get("split"))
    try:
        data = datasets.load_dataset(name, source.get("config"), **({"split": split} if split else {}))
    except (ConnectionError, FileNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"the data set {name!r} could not be had from the Hugging Face hub: {type(error).__name__}: {error}. Check name, config and "
            "split, log in for gated data, or save it elsewhere with save_to_disk and give {'path': folder}."
        ) from error
    return _with_split(data, name, source, datasets)


def _with_split(data, name, source, datasets):
    split = _split_name(source.get("split"))
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise ValueError(f"{name} has the splits {', '.join(data)}, not {split or 'none'!r}; set split to one of them.")
        data = data[split]
    return data, f"fingerprint:{data._fingerprint}"


def _tfds(name, source):
    try:
        import tensorflow_datasets as tfds  # an extra, needed for this kind only
    except ImportError as error:
        raise ValueError(f"the TFDS set {name!r} needs an extra: pip install 'jaxalign[tfds]' ({error}).") from error
    split = _split_name(source.get("split")) or "train"
    try:
        builder = tfds.builder(name, data_dir=source.get("data_dir"), file_format="array_record")
        builder.download_and_prepare(file_format="array_record")
        items = builder.as_data_source(split=split)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the TFDS set {name!r} cannot be read without tensorflow: {error}. Prepare it as array_record with "
            "builder.download_and_prepare(file_format='array_record')."
        ) from error
    except OSError as error:  # ConnectionError is one of them
        raise ValueError(
            f"the TFDS set {name!r} could not be had: {type(error).__name__}: {error}. Check the name and the network, or prepare it on "
            "a machine with a network and set $TFDS_DATA_DIR to its folder."
        ) from error
    return items, f"tfds:{builder.info.full_name}:{split}:{len(items)}"


def _plain(value):
    # TFDS gives bytes, numpy numbers and arrays; formats know text, numbers, lists and dicts.
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return _plain(value.tolist()) if type(value).__module__ == "numpy" else value


def _reach(row, path, name, number):
    value = row
    for part in [path] if path in row else path.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{name}: row {number} has no column {path!r}, only {', '.join(sorted(row))}; mend `rename`.") from error
    return value

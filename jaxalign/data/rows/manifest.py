"""The meta.json of a folder of arrays: facts about them, and the size and SHA-256 of every file beside it."""

import functools
import hashlib
import json
import os
from pathlib import Path

META = "meta.json"


def content_hash(parts: dict) -> str:
    """The first 16 hex digits of the SHA-256 of a dict of plain values; the order of its keys does not matter."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_meta(folder: str | Path) -> dict:
    """The content of meta.json."""
    return json.loads((Path(folder) / META).read_text())


def write(folder: Path, facts: dict) -> None:
    """Writes meta.json: the facts, and what the other files of the folder are like. Nothing may be written there afterwards."""
    paths = [path for path in sorted(folder.iterdir()) if path.name != META]
    meta = json.loads(json.dumps({**facts, "files": {path.name: (path.stat().st_size, _digest_of(path)) for path in paths}}, default=str))
    meta["checksum"] = content_hash(meta)
    with open(folder / META, "w") as file:
        json.dump(meta, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def damage(folder: str | Path) -> str | None:
    """What is wrong with the files of a complete folder, as a sentence; None where they are as they were written.

    A file is hashed once per process, and again where its size or time has changed.
    """
    folder = Path(folder)
    try:
        meta = read_meta(folder)
        expected = meta["files"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{META}: {type(error).__name__}: {error}"
    if meta.pop("checksum", None) != content_hash(meta):
        return f"{META}: its content is not what was written"
    for name, (size, digest) in expected:
        path = folder / name
        try:
            actual = path.stat().st_size
        except OSError as error:
            return f"{name}: {error.strerror}"
        if actual != size:
            return f"{name}: it has {actual:,} bytes and not {size:,}"
        if _digest_of(path) != digest:
            return f"{name}: its content is not what was written"
    return None


def _digest_of(path):
    stat = path.stat()
    return _digest(str(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _digest(path, size, changed_ns):
    # size and time are part of the key of the cache
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

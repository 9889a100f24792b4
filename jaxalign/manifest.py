"""Manifests: what the files of a finished folder are like, so that one that was damaged later is found before it is read.

A manifest is a JSON file in the folder: facts about it, the size and the SHA-256 of every file, and a checksum of all that. Hashing takes
about 0.9 s per GiB and core; a process hashes a file once, and again where its size or time has changed.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path

DESKTOP = ("Thumbs.db", "desktop.ini")  # beside hidden files, what desktops leave in a folder that they show
THREADS = min(8, os.cpu_count() or 1)  # disks and page caches give no more to further ones


def content_hash(parts: Mapping) -> str:
    """The first 16 hex digits of the SHA-256 of a dict of plain values; the order of its keys does not matter."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_of(files: Sequence[Path]) -> str:
    """A hash of the content of these files and of their names."""
    return content_hash({file.name: described for file, described in zip(files, _describe(files), strict=True)})


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The manifest that folders of one kind have."""

    name: str  # of its file
    closed: bool = True  # whether the folder holds no other files, but for what desktops leave; otherwise files are added later
    deep: bool = True  # whether the files of the folders below it are its own; otherwise such folders appear in it later

    def write(self, folder: Path, facts: Mapping | None = None) -> None:
        """Writes the facts and what the files are like, whole or not at all. The files may not change afterwards."""
        content = json.loads(json.dumps({**(facts or {}), "files": describe(folder, self._files(folder))}, default=str))
        partial = folder / f"{self.name}.partial"
        with open(partial, "w", encoding="utf-8") as file:
            json.dump({**content, "checksum": content_hash(content)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, folder / self.name)

    def is_in(self, folder: str | Path) -> bool:
        """Whether the folder has this manifest: it is written last, so a folder without it is not complete."""
        return (Path(folder) / self.name).is_file()

    def read(self, folder: str | Path) -> dict:
        """The content: the facts, and "files", path below the folder -> [size in bytes, SHA-256]."""
        return json.loads((Path(folder) / self.name).read_text(encoding="utf-8"))

    def damage(self, folder: str | Path, only: Callable[[str], bool] = lambda name: True) -> str:
        """How a folder differs from its manifest, naming the file, as the end of a sentence; "" where every file is as it was written.

        Args:
          only: whether a file is looked at, by its path below the folder.
        """
        folder = Path(folder)
        try:
            content = self.read(folder)
            if content.pop("checksum") != content_hash(content):
                return f"{self.name} is damaged"
            written = content["files"]
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            return f"{self.name} is damaged"
        try:
            there = {str(file.relative_to(folder)) for file in self._files(folder)} if self.closed else set()
        except OSError as error:
            return f"{error.filename} cannot be read ({error.strerror})"
        added = {name: None for name in there - written.keys() if not _is_of_a_desktop(name)}
        return difference(folder, {name: facts for name, facts in (written | added).items() if only(name)})

    def digest(self, folder: Path) -> str:
        """A hash of the content of a finished folder: of every file but the manifest, which holds it already where there is one."""
        return content_hash(self.read(folder)["files"] if self.is_in(folder) else describe(folder, self._files(folder)))

    def _files(self, folder: Path) -> list[Path]:
        """The files of the folder, but for the manifest."""
        paths = folder.rglob("*") if self.deep else folder.iterdir()
        return sorted(path for path in paths if path.is_file() and path != folder / self.name)


def describe(folder: Path, files: Sequence[Path] | None = None) -> dict[str, list]:
    """Path below the folder -> [size in bytes, SHA-256] of these files; None: of all of them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if files is None else files
    return {str(file.relative_to(folder)): described for file, described in zip(files, _describe(files), strict=True)}


def difference(folder: Path, written: Mapping[str, list | None]) -> str:
    """How files of a folder differ from what `describe` gave of them, naming the file; "" where none does. None: a file is too many."""
    try:
        present = describe(folder, sorted(path for name in written if (path := folder / name).is_file()))
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    differing = {name: facts for name, facts in sorted(written.items()) if facts is None or facts != present.get(name)}
    changed = [f"{name} {_change(facts, present.get(name))}" for name, facts in differing.items()]
    return ", ".join(changed[:2]) + (f" and {len(changed) - 2} more files differ" if len(changed) > 2 else "")


def _is_of_a_desktop(name: str) -> bool:
    return Path(name).name.startswith(".") or Path(name).name in DESKTOP


def _describe(files: Sequence[Path]) -> list[list]:
    """[size in bytes, SHA-256] of each file."""

    def describe(file):
        state = file.stat()
        return [state.st_size, _sha256(file, state.st_size, state.st_mtime_ns, state.st_ino)]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(describe, files))


@functools.lru_cache(maxsize=4096)
def _sha256(file: Path, *_state: int) -> str:
    # the state is part of the key of the cache
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _change(before: list | None, now: list | None) -> str:
    if before is None:
        return "was added"
    if now is None:
        return "is missing"
    return f"has {now[0]:,} bytes instead of {before[0]:,}" if before[0] != now[0] else "has other bytes than were written"

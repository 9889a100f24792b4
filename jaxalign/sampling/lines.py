"""Samples as lines of a JSONL file, in the order of their prompts; a file that was not finished is continued.

FILE.jsonl.settings.json beside it says what the lines depend on, so that lines of other settings are not continued.
"""

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import json
import os
from pathlib import Path
from typing import Any

from jaxalign.hosts.alone import alone
from jaxalign.manifest import content_hash
from jaxalign.sampling.sampler import Sample

SETTINGS = ".settings.json"


class Lines:
    """A file that gets the lines of prompts x `samples` in order: every line holds one sample. As a context it keeps other processes out.

    Args:
      file: made where it is not there.
      ids: of the prompts, as they stand in the lines.
      settings: plain values that the lines depend on.

    Raises:
      ValueError: the file holds lines of other settings, a damaged line, or is no file of samples; or another process writes it.
    """

    def __init__(self, file: Path, *, ids: Sequence[str | int], samples: int, settings: Mapping[str, Any]):
        self._file, self._ids, self._order = file, ids, [(i, k) for i in range(len(ids)) for k in range(samples)]
        self._waiting: dict[tuple[int, int], dict] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(alone(file, f"another process writes {file}; wait for it, or give another --out."))
            self._written = self._begin(settings)
            self._held = stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._held.close()

    @property
    def done(self) -> set[tuple[int, int]]:
        """(prompt, number) of the samples whose lines are written."""
        return set(self._order[: self._written])

    def add(self, key: tuple[int, int], line: dict) -> None:
        """Takes a sample's line, and writes it as soon as those before it are written."""
        self._waiting[key] = line
        ready = []
        while self._written < len(self._order) and self._order[self._written] in self._waiting:
            ready.append(self._waiting.pop(self._order[self._written]))
            self._written += 1
        if ready:
            with self._file.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in ready)

    def read(self) -> list[dict]:
        """All lines that are written. Only "\\n" ends one: a text may contain Unicode's other separators, at which `splitlines` cuts."""
        return [json.loads(line) for line in self._file.read_bytes().split(b"\n")[:-1]]

    def _begin(self, settings) -> int:
        """How many whole lines the file has; what follows the last of them is cut off."""
        mark = self._file.with_name(self._file.name + SETTINGS)
        if self._file.stat().st_size:  # nothing depends on settings yet where it is empty
            known = _settings(mark)
            if known is None or known["hash"] != content_hash(dict(settings)):
                raise self._refused(_differing(known["settings"], settings) if known else f"there is no {mark.name} beside it")
            whole = self._file.read_bytes()
            whole = whole[: whole.rfind(b"\n") + 1]
            self._check(whole.split(b"\n")[:-1])
            os.truncate(self._file, len(whole))
            return whole.count(b"\n")
        partial = mark.with_name(f"{mark.name}.partial")
        partial.write_text(json.dumps({"hash": content_hash(dict(settings)), "settings": settings}, indent=1), encoding="utf-8")
        os.replace(partial, mark)
        return 0

    def _check(self, lines):
        """Raises ValueError where a line is not that of the sample whose place it has."""
        if len(lines) > len(self._order):
            raise self._refused(f"it has {len(lines):,} lines, and {len(self._order):,} samples are asked for")
        for number, (line, (prompt, sample)) in enumerate(zip(lines, self._order, strict=False)):
            try:
                found = json.loads(line)
                is_there = (found["id"], found["sample"]) == (self._ids[prompt], sample)
            except (ValueError, LookupError, TypeError, RecursionError):
                raise self._refused(f"line {number} is no sample: {line[:40].decode(errors='replace')!r}") from None
            if not is_there:
                theirs = f"sample {found['sample']} of prompt {found['id']!r}"
                raise self._refused(f"line {number} is {theirs}, where sample {sample} of prompt {self._ids[prompt]!r} belongs")

    def _refused(self, why):
        return ValueError(f"{self._file} is there and cannot be continued: {why}. Give another --out, or remove the file.")


def _settings(mark: Path) -> dict | None:
    """The content of a file of settings; None where there is none."""
    if not mark.is_file():
        return None
    try:
        known = json.loads(mark.read_text(encoding="utf-8"))
        is_whole = isinstance(known["settings"], dict) and isinstance(known["hash"], str)
    except (ValueError, LookupError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise ValueError(
            f"{mark} is damaged, so nobody knows what the lines beside it depend on. Give another --out, or remove both files."
        )
    return known


def _differing(old: Mapping, new: Mapping) -> str:
    names = [name for name in {**old, **new} if old.get(name) != json.loads(json.dumps(new.get(name)))]
    return "its lines were made with " + ", ".join(f"{name}={old.get(name)!r}, not {new.get(name)!r}" for name in names)


def line(asked_id: str | int, prompt: str, text: str, sample: Sample) -> dict:
    """What a line contains of a sample."""
    return {
        "id": asked_id,
        "sample": sample.number,
        "prompt": prompt,
        "text": text,
        "token_ids": sample.token_ids.tolist(),
        "logps": _rounded(sample.logps),
        "sampled_logps": _rounded(sample.sampled_logps),
        "stop": sample.stop,
    }


def _rounded(values: Iterable) -> list[float]:
    return [round(float(value), 5) for value in values]

"""The safetensors file format, read and written one tensor at a time.

A file is a little-endian uint64 length, that many bytes of JSON (name -> dtype, shape, byte offsets), then the tensors' bytes.
Written here because a checkpoint is streamed: neither direction holds more than one tensor.
"""

from collections.abc import Callable
import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}  # that a weight may have
NAMES = {"float32": "F32", "bfloat16": "BF16"}
BITS = {  # of one element, of every dtype of the format
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
    "C64": 64,
}  # fmt: skip
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a tensor lies: file, dtype name, shape and offset in bytes from the start of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """The tensor, mapped from the file, in its own dtype.

        Raises:
          ValueError: a dtype that no model weight has (whole numbers, quantised formats).
        """
        if self.dtype not in DTYPES:
            raise ValueError(f"{self.file}: dtype {self.dtype} is not supported; convert the checkpoint to F32, BF16 or F16.")
        if 0 in self.shape:
            return np.zeros(self.shape, DTYPES[self.dtype])
        return np.memmap(self.file, dtype=DTYPES[self.dtype], mode="r", offset=self.offset, shape=self.shape)


def scan(file: Path) -> dict[str, Stored]:
    """The tensors of a file by name; only its header is read, and as strictly as the safetensors library reads it.

    Raises:
      ValueError: not a safetensors file, one that was cut short, or a header whose tensors overlap, leave gaps or do not fit their shapes.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise ValueError(f"{file} is not a whole safetensors file ({size} bytes); download or copy it again.")
        text = stream.read(length)
    try:
        entries = {name: _Entry.read(name, values) for name, values in _parse(text).items()}
        end = _check_spans(entries)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header of {file} is damaged: {error}; download or copy it again.") from error
    if 8 + length + end != size:
        cut = "it was cut short" if 8 + length + end > size else "it has bytes that no tensor owns"
        raise ValueError(f"{file} has {size} bytes but its header describes {8 + length + end}: {cut}; download or copy it again.")
    return {name: Stored(file, entry.dtype, entry.shape, 8 + length + entry.start) for name, entry in entries.items()}


class _Entry(NamedTuple):
    """What a header specifies of one tensor; start and stop are bytes from the end of the header."""

    start: int
    stop: int
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def read(cls, name: str, values: Any) -> "_Entry":
        shape, offsets, dtype = (values.get(key) for key in ("shape", "data_offsets", "dtype")) if isinstance(values, dict) else (None,) * 3
        if not (_is_sizes(shape) and _is_sizes(offsets) and len(offsets) == 2):
            raise ValueError(f"tensor {name!r} has no shape and data_offsets of whole numbers")
        if not isinstance(dtype, str) or dtype not in BITS:
            raise ValueError(f"tensor {name!r}: dtype {dtype} is not supported; convert the checkpoint to F32, BF16 or F16")
        return cls(*offsets, dtype, tuple(shape))


def _parse(text: bytes) -> dict[str, Any]:
    """The header's tensors. What JSON leaves open is refused: names that stand twice, numbers below 0, NaN, half characters."""

    def unique(pairs):
        keys = [key for key, _ in pairs]
        if twice := {key for key in keys if keys.count(key) > 1} if len(set(keys)) < len(keys) else ():
            raise ValueError(f"it names {min(twice)!r} twice")
        return dict(pairs)

    def whole(digits):
        if digits.startswith("-"):
            raise ValueError(f"it has the number {digits}")
        return int(digits)

    def refuse(word):
        raise ValueError(f"it has the number {word}")

    header = json.loads(text.decode(), object_pairs_hook=unique, parse_int=whole, parse_constant=refuse)
    if not isinstance(header, dict):
        raise ValueError("it is no table of tensors")
    "".join(header).encode()  # half characters raise here
    notes = header.pop("__metadata__", None) or {}
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise ValueError("its __metadata__ are not strings")
    "".join([*notes, *notes.values()]).encode()
    return header


def _check_spans(entries: dict[str, _Entry]) -> int:
    """The end of the last tensor. They must follow each other without a gap, each as long as its shape and dtype ask for."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][:2]):
        bits = math.prod(entry.shape) * BITS[entry.dtype]
        if entry.start != end or bits % 8 or entry.stop - entry.start != bits // 8:
            raise ValueError(
                f"tensor {name!r} lies at bytes {entry.start} to {entry.stop}, but the one before ends at {end} and "
                f"{entry.dtype} of shape {list(entry.shape)} takes {bits / 8:g} bytes"
            )
        end = entry.stop
    return end


def _is_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)


def write(file: Path, shapes: dict[str, tuple[int, ...]], dtype: str, tensor: Callable[[str], np.ndarray]) -> None:
    """Writes the named tensors in `dtype` ("float32" or "bfloat16"), asking `tensor` for one after the other."""
    itemsize = np.dtype(DTYPES[NAMES[dtype]]).itemsize
    header, offset = {"__metadata__": {"format": "pt"}}, 0  # transformers refuses files that do not say "pt"
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    with open(file, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            array = np.asarray(tensor(name), DTYPES[NAMES[dtype]])
            if array.shape != tuple(shape):
                raise ValueError(f"tensor {name} has shape {array.shape}, announced was {tuple(shape)}.")
            stream.write(np.ascontiguousarray(array).tobytes())

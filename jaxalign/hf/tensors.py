"""The safetensors file format, read and written one tensor at a time.

A file is a little-endian uint64 length, that many bytes of JSON (name -> dtype, shape, byte offsets), then the tensors' bytes.
Written here because a checkpoint is streamed: neither direction holds more than one tensor.
"""

from collections.abc import Callable
import dataclasses
import json
from pathlib import Path

import ml_dtypes
import numpy as np

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
NAMES = {"float32": "F32", "bfloat16": "BF16"}


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
          ValueError: a dtype that no model weight has (quantised formats).
        """
        if self.dtype not in DTYPES:
            raise ValueError(f"{self.file}: dtype {self.dtype} is not supported; convert the checkpoint to F32, BF16 or F16.")
        return np.memmap(self.file, dtype=DTYPES[self.dtype], mode="r", offset=self.offset, shape=self.shape)


def scan(file: Path) -> dict[str, Stored]:
    """The tensors of a file by name; only its header is read.

    Raises:
      ValueError: not a safetensors file, or one that was cut short.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{file} is not a whole safetensors file ({size} bytes); download or copy it again.")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end > size:
        raise ValueError(f"{file} has {size} bytes but its header describes {end}: it was cut short; download or copy it again.")
    return {name: Stored(file, e["dtype"], tuple(e["shape"]), 8 + length + e["data_offsets"][0]) for name, e in header.items()}


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

"""Writes a folder that transformers loads: config.json, weights in safetensors shards, and the tokenizer files carried along."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import json
import os
from pathlib import Path
import shutil
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from jaxalign.data.raw.notation import read_file
from jaxalign.hf import classifiers, config_json, names
from jaxalign.hf.load import INDEX, SINGLE
from jaxalign.hf.tensors import NAMES, write
from jaxalign.hosts import watch
from jaxalign.models.model import Model

CARRIED = (  # a tokenizer's files, whichever of them exist, and the generation defaults
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template.jinja",
    "chat_template.json",
    "chat_templates/*.jinja",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
)
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def save(
    folder: str | Path,
    model: Model,
    params: dict[str, Any],
    *,
    tokenizer_from: str | Path | None = None,
    dtype: str = "float32",
    max_shard_bytes: float = 5e9,
    seal: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Writes the model as a Hugging Face checkpoint folder, whole or not at all (a temporary sibling folder is renamed at the end).

    A model with a reward head becomes a sequence classifier with one label.

    dtype is "float32" or "bfloat16". tokenizer_from is a folder whose tokenizer files, generation defaults and special token ids are
    carried along; `seal` gets the folder once it is complete, before it has its name. With several processes all must call this; process 0
    writes, every tensor being gathered by itself.

    Raises:
      ValueError: an unknown dtype, a folder that exists, a tokenizer folder that does not, or a config the family cannot express.
      OSError: the disk is full or not writable; nothing is left behind.
    """
    folder = Path(folder)
    if dtype not in NAMES:
        raise ValueError(f"dtype {dtype!r} is not one of {sorted(NAMES)}.")
    check_new(folder)
    if tokenizer_from is not None and not Path(tokenizer_from).is_dir():
        raise ValueError(f"tokenizer folder {tokenizer_from} is not a folder; give the folder that holds tokenizer.json.")
    values = {**config_json.to_json(model.config), "torch_dtype": dtype, **_token_ids(tokenizer_from)}
    values |= classifiers.config_keys(values["model_type"]) if model.reward_head else {}
    wanted = {tensor.name: tensor for tensor in names.tensors(model)}
    files = _split(wanted, model, dtype, max_shard_bytes)
    tensor = functools.partial(_tensor, wanted, model, params, dtype)
    if jax.process_index() == 0:
        with whole_folder(folder) as partial:
            _write(partial, files, values, dtype, tensor)
            if tokenizer_from is not None:
                carry(partial, tokenizer_from)
            seal(partial)
    else:
        for shapes in files.values():
            for name in shapes:
                tensor(name)
    watch.barrier("the export", limited=False)


def check_new(folder: str | Path) -> None:
    """Raises ValueError where there is something of the name of a folder that is to be written."""
    if Path(folder).exists():
        raise ValueError(f"{folder} exists; choose another folder or remove it.")


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A folder to write in that gets its name at the end, or leaves nothing behind."""
    partial = Path(folder).parent / f".{Path(folder).name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _split(wanted: dict[str, names.Tensor], model: Model, dtype: str, max_shard_bytes: float) -> dict[str, dict[str, tuple[int, ...]]]:
    """File name -> tensor name -> shape; a file is closed before it would exceed max_shard_bytes."""
    itemsize = jnp.dtype(dtype).itemsize
    groups, size = [{}], 0
    for name, tensor in wanted.items():
        shape = names.file_shape(tensor, model.config)
        count = int(np.prod(shape)) * itemsize
        if groups[-1] and size + count > max_shard_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = shape
        size += count
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups)}


def _write(partial: Path, files: dict, values: dict, dtype: str, tensor) -> None:
    for file, shapes in files.items():
        write(partial / file, shapes, dtype, tensor)
    if len(files) > 1:
        count = sum(int(np.prod(shape)) for shapes in files.values() for shape in shapes.values())
        index = {
            "metadata": {"total_size": count * jnp.dtype(dtype).itemsize},
            "weight_map": {name: file for file, shapes in files.items() for name in shapes},
        }
        (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    (partial / "config.json").write_text(json.dumps(values, indent=2) + "\n")


def carry(folder: Path, source: str | Path) -> None:
    """Copies the files of a tokenizer and the generation defaults, whichever of them exist."""
    for pattern in CARRIED:
        for file in Path(source).glob(pattern):
            target = folder / file.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)


def _tensor(wanted: dict[str, names.Tensor], model: Model, params: dict, dtype: str, name: str) -> np.ndarray:
    tensor = wanted[name]
    arrays = []
    for path, _ in tensor.leaves:
        leaf = params
        for step in path:
            leaf = leaf[step]
        leaf = _pick(leaf, 0 if tensor.layer is None else tensor.layer, dtype, tensor.layer is not None)
        whole = np.asarray(leaf) if leaf.is_fully_addressable else multihost_utils.process_allgather(leaf, tiled=True)
        arrays.append(whole)
    return names.from_leaves(tensor, arrays, model.config)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _pick(leaf: jax.Array, layer: int, dtype: str, stacked: bool) -> jax.Array:
    return (jax.lax.dynamic_index_in_dim(leaf, layer, 0, keepdims=False) if stacked else leaf).astype(dtype)


def _token_ids(source: str | Path | None) -> dict[str, Any]:
    """The ids of the special tokens: of the model that the tokenizer lies beside, else those that generation goes by."""
    files = [] if source is None else [Path(source) / name for name in ("config.json", "generation_config.json")]
    values = next((read_file(file) for file in files if file.is_file()), {})
    return {key: values[key] for key in TOKEN_IDS if key in values}

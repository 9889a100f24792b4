"""Reads a Hugging Face checkpoint folder: its config, and its weights one tensor at a time straight into their shards."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import sharding
from jaxalign.hf import config as hf_config
from jaxalign.hf import names
from jaxalign.hf.tensors import Stored, scan
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_config(folder: str | Path) -> ModelConfig:
    """The ModelConfig of the folder's config.json.

    Raises:
      ValueError: no folder, no config.json, or an architecture that is not supported.
    """
    file = _folder(folder) / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} has no config.json; give a folder that transformers' save_pretrained or a model download wrote.")
    return hf_config.from_json(_json(file))


def load(folder: str | Path, model: models.Model) -> dict[str, Any]:
    """The parameters of the folder's checkpoint as float32, in their shards on the mesh in scope; a value head is not among them.

    Everything that can be wrong about names and shapes is reported before the first tensor is read.

    Raises:
      ValueError: no folder, a missing or broken file, tensors that are missing, left over, or of another shape than the config says.
    """
    stored, wanted = _stored(_folder(folder), model.config), names.tensors(model)
    _check(folder, stored, wanted, model.config)
    params = _allocate(model)
    for tensor in wanted:
        array = stored[tensor.name].read().astype(np.float32)
        for (path, _), piece in zip(tensor.leaves, names.to_leaves(tensor, array, model.config), strict=True):
            parent, axes = _at(params, path[:-1]), _at(model.axes, path)
            if tensor.layer is None:
                parent[path[-1]] = _put(piece, axes)
            else:
                part = _put(piece, axes[1:])
                parent[path[-1]] = _place(parent[path[-1]], part, np.int32(tensor.layer))
    return params


def _folder(folder: str | Path) -> Path:
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is not a folder; give the path of a downloaded checkpoint (hf download NAME --local-dir FOLDER).")
    return Path(folder)


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid JSON ({error}); download or copy it again.") from error


def _stored(folder: Path, config: ModelConfig) -> dict[str, Stored]:
    """Every weight in the folder by the name it has in a causal language model's checkpoint."""
    if (folder / INDEX).is_file():
        weight_map = _json(folder / INDEX)["weight_map"]
        files = sorted(set(weight_map.values()))
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            raise ValueError(f"{folder / INDEX} names {len(missing)} files that are not there: {_some(missing)}; copy them too.")
        found = {name: stored for file in files for name, stored in scan(folder / file).items()}
        absent = sorted(set(weight_map) - set(found))
        if absent:
            raise ValueError(f"{folder / INDEX} promises {_some(absent)}, but no file holds them; download or copy the shards again.")
    elif (folder / SINGLE).is_file():
        found = scan(folder / SINGLE)
    else:
        other = sorted(file.name for file in folder.glob("*.bin"))
        way_out = f"it has {_some(other)}: convert with transformers' save_pretrained" if other else "copy the weights there"
        raise ValueError(f"{folder} has neither {SINGLE} nor {INDEX}; {way_out}.")
    prefix = names.prefix(config)
    if not any(name.startswith(prefix) for name in found):  # saved from the base model, as gpt2's own release
        heads = ("lm_head.", "embed_out.")
        found = {name if name.startswith(heads) else prefix + name: stored for name, stored in found.items()}
    return found


def _check(folder: str | Path, stored: dict[str, Stored], wanted: list[names.Tensor], config: ModelConfig) -> None:
    problems = []
    expected = {tensor.name: names.file_shape(tensor, config) for tensor in wanted}
    missing = [name for name in expected if name not in stored]
    if missing:
        tie = any(name in ("lm_head.weight", "embed_out.weight") for name in missing)
        hint = "; if the head is the embedding, set tie_word_embeddings to true in config.json" if tie else ""
        problems.append(f"{len(missing)} tensors of the {config.family} in config.json are missing: {_some(missing)}{hint}.")
    ignored = ("lm_head.weight", "embed_out.weight") if config.tied else ()
    extra = [name for name in stored if name not in expected and name not in ignored and not names.BUFFERS.search(name)]
    if extra:
        problems.append(f"{len(extra)} tensors have no place in that model: {_some(sorted(extra))}; is config.json of this checkpoint?")
    for name, shape in expected.items():
        if name in stored and stored[name].shape != shape:
            problems.append(f"tensor {name} has shape {stored[name].shape}, config.json says {shape}; correct config.json.")
    if problems:
        shown = problems if len(problems) <= 5 else [*problems[:5], f"And {len(problems) - 5} more."]
        raise ValueError(f"the checkpoint in {folder} does not fit its config: " + " ".join(shown))


def _some(found: list[str]) -> str:
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")


def _allocate(model: models.Model) -> dict[str, Any]:
    """Zeros for the stacked leaves, in their shards; leaves that are read whole stay out."""
    stacked = jax.tree.map(lambda shape, axes: _zeros(shape.shape, axes), model.shapes["layers"], model.axes["layers"])
    return {**{name: {} for name in models.without_head(model.shapes)}, "layers": stacked}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _zeros(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> jax.Array:
    return jnp.zeros(shape, jnp.float32, out_sharding=sharding.spec(*axes, shape=shape))


def _put(array: np.ndarray, axes: tuple[str | None, ...]) -> jax.Array:
    """The host array in its shards; each process copies only its own."""
    place = sharding.named(sharding.spec(*axes, shape=array.shape))
    return jax.make_array_from_callback(array.shape, place, lambda index: np.ascontiguousarray(array[index]))


@functools.partial(jax.jit, donate_argnums=0)
def _place(stack: jax.Array, part: jax.Array, layer: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, part, layer, 0)


def _at(tree: dict, path: names.Path):
    for name in path:
        tree = tree[name]
    return tree

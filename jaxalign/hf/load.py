"""Reads the folder of a Hugging Face language model or classifier: config, and weights one tensor at a time straight into their shards."""

import dataclasses
import functools
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxalign import sharding
from jaxalign.data.raw.notation import read_file
from jaxalign.hf import classifiers, names, notes
from jaxalign.hf import config as hf_config
from jaxalign.hf.tensors import DTYPES, Stored, scan
from jaxalign.models import model as models
from jaxalign.models import quantized
from jaxalign.models.config import ModelConfig

TURNED_ON_DEVICE = 2**20  # elements; below it a transposition costs less than its compile
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CAN_HOLD_CODE = (".bin", ".pt", ".pth", ".ckpt", ".pkl")  # pickles, which run what is in them when they are opened: never read here


def load_config(folder: str | Path) -> ModelConfig:
    """The ModelConfig of the folder's config.json; that of a classifier, which has no output table, is tied.

    Raises:
      ValueError: no folder, no config.json, or an architecture that is not supported.
    """

    def read(values):
        config = hf_config.from_json(values)
        return dataclasses.replace(config, tied=True) if classifiers.reward_head(values) else config

    return _of_config(folder, read)


def reward_head(folder: str | Path) -> str | None:
    """The kind of reward head that the folder's checkpoint has; None for a language model. Errors are those of `load_config`."""
    return _of_config(folder, lambda values: classifiers.reward_head(values) if isinstance(values, dict) else None)


def _of_config(folder, read):
    file = _folder(folder) / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} has no config.json; give a folder that transformers' save_pretrained or a model download wrote.")
    try:
        return read(read_file(file))
    except ValueError as error:
        raise ValueError(f"{error} (in {folder})") from error


def check(folder: str | Path, model: models.Model) -> None:
    """Raises ValueError where `load` would, as far as names, shapes, sizes of files and a second head can show it."""
    stored, wanted = _stored(_folder(folder), model.config), names.tensors(model)
    _check(folder, stored, wanted, model.config)
    if model.reward_head is None:  # nobody reads the output table of a classifier
        _check_tied(folder, stored, wanted, model.config)


def load(folder: str | Path, model: models.Model) -> dict[str, Any]:
    """The parameters of the folder's checkpoint, stored as the model stores them, in their shards on the mesh in scope.

    A value head is not among them.

    A reward head is where the model has one.

    Everything that can be wrong about names and shapes is reported before the first tensor is read.

    Raises:
      ValueError: no folder, a missing or broken file, tensors that are missing, left over, not finite, or of another shape than the
        config specifies; a head of its own where the config ties it to the embedding.
    """
    check(folder, model)
    stored, wanted, params = _stored(_folder(folder), model.config), names.tensors(model), _allocate(model)
    for tensor in wanted:
        array = stored[tensor.name].read()
        check_finite(array, tensor.name, stored[tensor.name].file)
        for (path, _), piece in zip(tensor.leaves, names.to_leaves(tensor, array, model.config), strict=True):
            parent, shape, axes = _parent(params, path), _at(model.shapes, path), _at(model.axes, path)
            if tensor.layer is None:
                parent[path[-1]] = put(piece.astype(shape.dtype, copy=False), axes)
            else:
                parent[path[-1]] = _place(parent[path[-1]], _of_layer(piece, shape, axes), np.int32(tensor.layer))
    return params


def _folder(folder: str | Path) -> Path:
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is not a folder; give the path of a downloaded checkpoint (hf download NAME --local-dir FOLDER).")
    return Path(folder)


def _stored(folder: Path, config: ModelConfig) -> dict[str, Stored]:
    """Every weight in the folder by the name it has in a causal language model's checkpoint."""
    single = (folder / SINGLE).is_file()  # which transformers prefers where an index is there too
    files = [SINGLE] if single else _indexed(folder)
    used = {*files} if single else {*files, INDEX}
    if others := sorted({file.name for file in [*folder.glob("*.safetensors"), *folder.glob(INDEX)]} - used):
        notes.say_once(f"{folder}: the weights are read from {notes.some(files)}; not read: {notes.some(others)}.")
    found = {}
    for file in files:
        for name, stored in scan(folder / file).items():
            if name in found:
                raise ValueError(f"{folder} holds tensor {name} twice, in {found[name].file.name} and in {file}; remove the wrong file.")
            found[name] = stored
    if not single and (absent := sorted(set(read_file(folder / INDEX)["weight_map"]) - set(found))):
        raise ValueError(f"{folder / INDEX} promises {notes.some(absent)}, but no file holds them; download or copy the shards again.")
    prefix = names.prefix(config)
    if not any(name.startswith(prefix) for name in found):  # saved from the base model, as gpt2's own release
        heads = ("lm_head.", "embed_out.", classifiers.TENSOR)
        found = {name if name.startswith(heads) else prefix + name: stored for name, stored in found.items()}
    return found


def _indexed(folder: Path) -> list[str]:
    """The names of the files that the folder's index names, which lie in the folder."""
    index = folder / INDEX
    if not index.is_file():
        other = sorted(file.name for file in folder.glob("*") if file.suffix in CAN_HOLD_CODE or file.name == "adapter_config.json")
        way_out = f"it has {notes.some(other)}: convert with transformers' save_pretrained" if other else "copy the weights there"
        raise ValueError(f"{folder} has neither {SINGLE} nor {INDEX}; {way_out}.")
    parsed = read_file(index)
    weights = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(file, str) and file for file in weights.values()):
        raise ValueError(f"{index} has no weight_map from tensors to files; download or copy it again.")
    files = sorted(set(weights.values()))
    outside = [file for file in files if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts or "\\" in file]
    if outside:
        raise ValueError(f"{index} names files outside its folder: {notes.some(outside)}; its files must lie beside it.")
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise ValueError(f"{index} names {len(missing)} files that are not there: {notes.some(missing)}; copy them too.")
    return files


def _check(folder: str | Path, stored: dict[str, Stored], wanted: list[names.Tensor], config: ModelConfig) -> None:
    problems = []
    expected = {tensor.name: names.file_shape(tensor, config) for tensor in wanted}
    missing = [name for name in expected if name not in stored]
    if missing:
        tie = any(name in ("lm_head.weight", "embed_out.weight") for name in missing)
        hint = "; if the head is the embedding, set tie_word_embeddings to true in config.json" if tie else ""
        problems.append(f"{len(missing)} tensors of the {config.family} in config.json are missing: {notes.some(missing)}{hint}.")
    ignored = (names.head(config),) if config.tied else ()
    extra = [name for name in stored if name not in expected and name not in ignored and not names.BUFFERS.search(name)]
    if extra:
        problems.append(f"{len(extra)} tensors have no place in that model: {notes.some(sorted(extra))}; is this their config.json?")
    for name, shape in expected.items():
        if name in stored and stored[name].shape != shape:
            problems.append(f"tensor {name} has shape {stored[name].shape}, config.json specifies {shape}; correct config.json.")
        if name in stored and stored[name].dtype not in DTYPES:
            problems.append(f"tensor {name} has dtype {stored[name].dtype}; convert the checkpoint to F32, BF16 or F16.")
    if problems:
        shown = problems if len(problems) <= 5 else [*problems[:5], f"And {len(problems) - 5} more."]
        raise ValueError(f"the checkpoint in {folder} does not fit its config: " + " ".join(shown))


def _check_tied(folder: str | Path, stored: dict[str, Stored], wanted: list[names.Tensor], config: ModelConfig) -> None:
    """A head in the file of a tied model must be the embedding: it would be left out otherwise."""
    head = names.head(config)
    if not config.tied or head not in stored:
        return
    (embedding,) = (tensor.name for tensor in wanted if tensor.leaves[0][0] == ("embed", "tokens"))
    one, other = stored[head].read(), stored[embedding].read()
    if one.shape != other.shape or not np.array_equal(one, other):
        raise ValueError(
            f"config.json in {folder} sets tie_word_embeddings to true, but the file holds a {head} that is not {embedding}. "
            f"Set tie_word_embeddings to false to use it, or remove {head} from the file."
        )


def _allocate(model: models.Model) -> dict[str, Any]:
    """Zeros for the stacked leaves, in their shards; leaves that are read whole stay out."""
    stacked = jax.tree.map(lambda shape, axes: _zeros(shape.shape, axes, shape.dtype), model.shapes["layers"], model.axes["layers"])
    return {**{name: {} for name in models.without_head(model.shapes)}, "layers": stacked}


def _parent(tree: dict, path: names.Path) -> dict:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    return tree


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _zeros(shape: tuple[int, ...], axes: tuple[str | None, ...], dtype: jnp.dtype) -> jax.Array:
    return jnp.zeros(shape, dtype, out_sharding=sharding.spec(*axes, shape=shape))


def put(array: np.ndarray, axes: tuple[str | None, ...]) -> jax.Array:
    """The host array in its shards; each process copies only its own.

    A large array goes as it lies in memory, and the devices transpose it, which the host does ten times slower.
    """
    order = list(range(array.ndim))
    if array.size > TURNED_ON_DEVICE:
        order.sort(key=lambda axis: -array.strides[axis])
    stored = array.transpose(order)
    place = sharding.named(sharding.spec(*(axes[axis] for axis in order), shape=stored.shape))
    # a copy: a device that is this host would go on reading the file
    moved = jax.make_array_from_callback(stored.shape, place, lambda index: np.array(stored[index], order="C"))
    return moved if order == sorted(order) else _transposed(moved, tuple(np.argsort(order).tolist()))


def check_finite(array: np.ndarray, name: str, file) -> None:
    """Raises ValueError where a tensor of a file holds numbers that are not finite."""
    if bad := _count_not_finite(array):
        raise ValueError(
            f"tensor {name} in {file} holds {bad:,} numbers that are not finite: these weights are damaged, or their training diverged. "
            "Choose another checkpoint."
        )


def _count_not_finite(array: np.ndarray) -> int:
    if array.dtype == ml_dtypes.bfloat16:  # whose exponent is all ones then; several times faster than by its numbers
        return int(((array.view(np.uint16) & 0x7F80) == 0x7F80).sum())
    return array.size - int(np.isfinite(array).sum())


_transposed = functools.partial(jax.jit, static_argnums=1)(jnp.transpose)


def _of_layer(piece: np.ndarray, shape, axes):
    """What a stack holds of one layer, on the devices: quantized there."""
    if quantized.is_quantized(shape):
        return quantized.quantize(put(piece, axes.scales[1:]), axes.scales[1:], shape.kind)
    return put(piece.astype(shape.dtype, copy=False), axes[1:])


@functools.partial(jax.jit, donate_argnums=0)
def _place(stack, part, layer: jax.Array):
    return jax.tree.map(lambda stack, part: jax.lax.dynamic_update_index_in_dim(stack, part, layer, 0), stack, part)


def _at(tree: dict, path: names.Path):
    for name in path:
        tree = tree[name]
    return tree

"""Folders of low-rank adapters as `peft` writes and reads them: adapter_config.json and adapter_model.safetensors.

A fused projection of theirs is several maps of ours. Written, its adapter has their ranks side by side and zeros between them; read, every
map of ours gets the whole A and its own rows of B. Both give the same sums.
"""

import math
from pathlib import Path
import re
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from jaxalign.data.raw.notation import read_file
from jaxalign.hf import names, notes
from jaxalign.hf.load import check_finite, put
from jaxalign.hf.tensors import DTYPES, Stored, scan
from jaxalign.models import model as models
from jaxalign.models.lora import LORA, A, B, LoraConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every name; with another one a reader finds nothing and serves the base
SIDES = {A: "lora_A", B: "lora_B"}
SCORE = PREFIX + "score.weight"  # of a sequence classifier, whose head is saved whole
# What makes of an adapter something else than x A B scale beside the map, where it is set.
OTHER_KINDS = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "trainable_token_indices", "target_parameters",
    "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip
OTHER_BASES = ("pissa", "olora", "loftq", "corda", "eva", "lora_ga")  # ways to start that also change the weights of the base


def is_folder(folder: str | Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (Path(folder) / CONFIG).is_file() and not (Path(folder) / "config.json").is_file()


def base(folder: str | Path) -> str:
    """The model that the folder's adapter stands on, as its config names it; a relative path is one from where the command runs."""
    name = _config(Path(folder)).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{Path(folder) / CONFIG} names no base_model_name_or_path; write there what model the adapter was trained on.")
    return name


def written_config(model: models.Model, *, base_name: str) -> dict[str, Any]:
    """The values of adapter_config.json."""
    config, adapted = model.lora, _adapted(model)
    fused = {_module(tensor): len(parts) for tensor, parts in adapted if len(parts) > 1}
    grown = {module: math.sqrt(count) if config.rank_stabilised else count for module, count in fused.items()}
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if model.reward_head else "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "use_rslora": config.rank_stabilised,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": model.config.family == "gpt2",
        "target_modules": sorted({_short(_module(tensor)) for tensor, _ in adapted}),
        "rank_pattern": {_short(module): count * config.rank for module, count in fused.items()},
        "alpha_pattern": {_short(module): factor * config.alpha for module, factor in grown.items()},
        "modules_to_save": ["score"] if model.reward_head else None,
        "inference_mode": True,
    }


def tensors(model: models.Model, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Name -> float32 array of adapter_model.safetensors; with several processes all must call this.

    Raises:
      ValueError: the adapter changes nothing, or a map of the family has no name.
    """
    host, found = jax.tree.map(_whole, params[LORA]), {}
    for tensor, parts in _adapted(model):
        pairs = [(part, _at(host, path[:-1])) for part, path in parts]
        of_layer = [(part, pair[A][tensor.layer], pair[B][tensor.layer]) for part, pair in pairs]
        rank = model.lora.rank
        found[_name(tensor, A)] = np.concatenate([a.reshape(-1, rank).T for _, a, _ in of_layer])
        found[_name(tensor, B)] = _fused_b(tensor, [(part, b) for part, _, b in of_layer])
    check_change(found, "this step")
    if model.reward_head:
        found[SCORE] = _whole(params[models.REWARD_HEAD]["score"]["kernel"]).T
    return found


def check_change(found: dict[str, Any], where: str) -> None:
    """Raises ValueError where every B is zero, or none is there: the base would be served as if it had been trained."""
    if not any(np.any(np.asarray(array)) for name, array in found.items() if name.endswith(f"{SIDES[B]}.weight")):
        raise ValueError(f"the adapter of {where} changes nothing: every {SIDES[B]} in it is zero.")


def load_config(folder: str | Path, plain: models.Model) -> LoraConfig:
    """The adapters of a folder, for a model without adapters; only headers are read.

    Where ranks or alphas differ between maps, the rank is the largest and the factors stand in B, see `load`.

    Raises:
      ValueError: another kind of adapter, a name that is no map of this model, a shape that does not fit, or a file that is missing.
    """
    folder = Path(folder)
    values, stored = _config(folder), _stored(folder)
    by_module = {_module(tensor): tensor for tensor in _maps(plain)}
    wanted = {_name(tensor, side) for tensor in by_module.values() for side in SIDES} | ({SCORE} if plain.reward_head else set())
    if strange := sorted(set(stored) - wanted):
        example = _name(next(iter(by_module.values())), A)
        raise ValueError(
            f"{len(strange)} tensors in {folder / WEIGHTS} belong to no linear map of this {plain.config.family}: {notes.some(strange)}; "
            f"names are like {example}. A reader that passes them over would serve the base alone."
        )
    modules = {module for module, tensor in by_module.items() if _name(tensor, A) in stored}
    if not modules:
        raise ValueError(f"{folder / WEIGHTS} holds no adapter of a linear map of this {plain.config.family}.")
    if SCORE in stored and (shape := tuple(stored[SCORE].shape)) != (1, plain.config.width):
        raise ValueError(
            f"{SCORE} in {folder / WEIGHTS} has the shape {shape}, and a reward model of this {plain.config.family} has one label: "
            f"(1, {plain.config.width:,}). Choose an adapter that was trained with num_labels=1."
        )
    for module in sorted(modules):
        _check_shapes(folder, by_module[module], stored, plain)
    targets = {".".join(path[1:-1]) for module in modules for path, _ in by_module[module].leaves}
    ranks = {stored[_name(by_module[module], A)].shape[0] for module in modules}
    known = ("attention", "mlp")
    ordered = tuple(sorted(targets, key=lambda name: (known.index(name.split(".")[0]), name)))
    if ranks == {values["r"]}:
        return LoraConfig(values["r"], float(values["lora_alpha"]), ordered, bool(values.get("use_rslora")))
    scale = _scale(values, "", values["r"])
    return LoraConfig(max(ranks), scale * max(ranks), ordered)


def load(folder: str | Path, model: models.Model) -> dict[str, Any]:
    """params[LORA] of a model with the adapters of `load_config`, float32 in their shards on the mesh in scope.

    A map of a lower rank is filled up with zeros, and B carries what its own scale is more than that of the others.

    Raises:
      ValueError: the adapter changes nothing, or is not finite.
    """
    folder = Path(folder)
    values, stored = _config(folder), _stored(folder)
    arrays = {name: one.read() for name, one in stored.items()}
    for name, array in arrays.items():
        check_finite(array, name, folder / WEIGHTS)
    check_change(arrays, str(folder))
    found = jax.tree.map(lambda shape: np.zeros(shape.shape, np.float32), model.shapes[LORA])
    for tensor, parts in _adapted(model):
        if _name(tensor, A) not in stored:
            continue  # of a layer that has none
        a, b = (arrays[_name(tensor, side)].astype(np.float32) for side in SIDES)
        factor = _scale(values, _module(tensor), len(a)) / model.lora.scale
        for part, path in parts:
            pair = _at(found, path[:-1])
            pair[A][tensor.layer][..., : len(a)] = a.T.reshape(*pair[A].shape[1:-1], len(a))
            pair[B][tensor.layer][: len(a)] = factor * _split_b(tensor, part, b, pair[B].shape[2:])
    return jax.tree.map(put, found, model.axes[LORA])


def has_score(folder: str | Path) -> bool:
    """Whether the head of a sequence classifier was saved beside the adapter."""
    return SCORE in _stored(Path(folder))


def load_score(folder: str | Path, model: models.Model) -> dict[str, Any]:
    """The parameters of that head, for a model with a linear reward head."""
    head = _stored(Path(folder))[SCORE].read().astype(np.float32).T
    return {"score": {"kernel": put(head, model.axes[models.REWARD_HEAD]["score"]["kernel"])}}


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    values = read_file(file)
    if not isinstance(values, dict) or values.get("peft_type") != "LORA":
        kind = values.get("peft_type") if isinstance(values, dict) else None
        raise ValueError(f"{file}: peft_type={kind!r} is not supported; adapters of type LORA are.")
    if other := [key for key in OTHER_KINDS if values.get(key)]:
        raise ValueError(f"{file}: {other[0]}={values[other[0]]!r} is not supported; merge the adapter with peft and load the whole model.")
    if (bias := values.get("bias", "none")) != "none":
        raise ValueError(f"{file}: bias={bias!r} trains biases too, which is not supported; merge the adapter with peft.")
    if (start := str(values.get("init_lora_weights")).lower()).startswith(OTHER_BASES):
        raise ValueError(f"{file}: init_lora_weights={start!r} changes the base too, which is not supported; merge the adapter with peft.")
    if set(values.get("modules_to_save") or ()) - {"score", "classifier"}:
        raise ValueError(f"{file}: modules_to_save={values['modules_to_save']!r} is not supported; merge the adapter with peft.")
    numbers = values.get("r"), values.get("lora_alpha")
    if type(numbers[0]) is not int or not isinstance(numbers[1], int | float) or min(numbers) <= 0:
        raise ValueError(f"{file}: r={numbers[0]!r} and lora_alpha={numbers[1]!r} must be numbers above 0.")
    return values


def _stored(folder: Path) -> dict[str, Stored]:
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} has no {WEIGHTS}; save the adapter with peft's save_pretrained, which writes safetensors.")
    stored = scan(folder / WEIGHTS)
    if wrong := [name for name, one in stored.items() if one.dtype not in DTYPES]:
        raise ValueError(f"tensor {wrong[0]} in {folder / WEIGHTS} has dtype {stored[wrong[0]].dtype}; convert it to F32, BF16 or F16.")
    return stored


def _scale(values: dict[str, Any], module: str, rank: int) -> float:
    """The factor of one map's adapter; a pattern is a regular expression for the end of its name."""
    patterns = values.get("alpha_pattern") or {}
    alpha = next((alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), values["lora_alpha"])
    return alpha / (math.sqrt(rank) if values.get("use_rslora") else rank)


def _check_shapes(folder: Path, tensor: names.Tensor, stored: dict[str, Stored], plain: models.Model) -> None:
    out, inner = names.file_shape(tensor, plain.config)
    out, inner = (inner, out) if plain.config.family == "gpt2" else (out, inner)
    shapes = [stored[_name(tensor, side)].shape if _name(tensor, side) in stored else None for side in SIDES]
    if None in shapes or len(shapes[0]) != 2 or shapes != [(shapes[0][0], inner), (out, shapes[0][0])]:
        raise ValueError(
            f"the adapter of {_module(tensor)} in {folder / WEIGHTS} has the shapes {shapes[0]} and {shapes[1]}, and this "
            f"{plain.config.family} needs (rank, {inner:,}) and ({out:,}, rank); it is an adapter of another model."
        )


def _maps(model: models.Model) -> list[names.Tensor]:
    """The tensors of linear maps of the layers."""
    return [tensor for tensor in names.tensors(model) if tensor.layer is not None and tensor.leaves[0][0][-1] == "kernel"]


def _adapted(model: models.Model) -> list[tuple[names.Tensor, list[tuple[int, names.Path]]]]:
    """Tensors of maps that have adapters -> (number of the part in a fused projection, path) of those of ours that have one."""
    paths = {path[:-1] for path, _ in names.leaves(model.shapes[LORA])}
    parts = [(tensor, [(i, path) for i, (path, _) in enumerate(tensor.leaves) if path[:-1] in paths]) for tensor in _maps(model)]
    return [(tensor, there) for tensor, there in parts if there]


def _module(tensor: names.Tensor) -> str:
    return tensor.name.removesuffix(".weight")


def _name(tensor: names.Tensor, side: str) -> str:
    return f"{PREFIX}{_module(tensor)}.{SIDES[side]}.weight"


def _short(module: str) -> str:
    """What names the module in every layer, as in "self_attn.q_proj"."""
    return re.split(r"\.\d+\.", module, maxsplit=1)[1]


def _out_letters(tensor: names.Tensor) -> str:
    inputs = "D"  # of every fused projection
    return tensor.layout.replace(" ", "").replace(inputs, "")


def _fused_b(tensor: names.Tensor, parts: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """[outputs, rank of all parts] of B [rank, *outputs] of each part."""
    if "3" not in tensor.layout:
        (_, b), = parts
        return np.ascontiguousarray(b.reshape(len(b), -1).T)
    rank, axis = len(parts[0][1]), _out_letters(tensor).index("3")
    shape = list(parts[0][1].shape[1:])
    shape.insert(axis, 3)
    whole = np.zeros((*shape, rank * len(parts)), np.float32)
    for number, (part, b) in enumerate(parts):
        np.moveaxis(whole, axis, 0)[part][..., number * rank : (number + 1) * rank] = np.moveaxis(b, 0, -1)
    return whole.reshape(-1, whole.shape[-1])


def _split_b(tensor: names.Tensor, part: int, b: np.ndarray, outputs: tuple[int, ...]) -> np.ndarray:
    """[rank, *outputs] of one part, from theirs, [outputs of all parts, rank]."""
    if "3" in tensor.layout:
        axis = _out_letters(tensor).index("3")
        shape = list(outputs)
        shape.insert(axis, 3)
        b = np.moveaxis(b.reshape(*shape, -1), axis, 0)[part]
    return np.moveaxis(b.reshape(*outputs, b.shape[-1]), -1, 0)


def _at(tree: dict, path: names.Path):
    for name in path:
        tree = tree[name]
    return tree


def _whole(leaf: jax.Array) -> np.ndarray:
    return np.asarray(leaf) if leaf.is_fully_addressable else np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

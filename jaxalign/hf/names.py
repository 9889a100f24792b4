"""One table a family: which Hugging Face tensor holds which of our leaves, and how its axes lie. Read in both directions.

A layout names axes by letters: D width, H heads, K key heads, E head_dim, F mlp_width, V vocabulary, P positions, 1 the score of a reward
model, 3 the query, key and value of a fused projection. A Hugging Face layout groups letters that share one axis of the file: "HE D" is a
matrix [H * E, D]. Ours has one letter an axis.
"""

import dataclasses
import re

import numpy as np

from jaxalign.hf import classifiers
from jaxalign.models.config import ModelConfig
from jaxalign.models.model import CRITIC, LORA, REWARD_HEAD, VALUE_HEAD, Model

Path = tuple[str, ...]

# Tensors that some checkpoints carry and that hold no weight: rotary tables and causal masks.
BUFFERS = re.compile(r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|\.attention\.(masked_)?bias)$")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint. `layer` is the index on our "layers" axis, None for what is not stacked."""

    name: str
    layout: str  # theirs
    leaves: tuple[tuple[Path, str], ...]  # ours: path and layout of each part
    layer: int | None = None


def prefix(config: ModelConfig) -> str:
    """What names of the base model start with in a causal language model's checkpoint, and lack in the base model's own."""
    return {"gpt_neox": "gpt_neox.", "gpt2": "transformer."}.get(config.family, "model.")


def head(config: ModelConfig) -> str:
    """The name of the output head in the family's checkpoints."""
    return "embed_out.weight" if config.family == "gpt_neox" else "lm_head.weight"


def tensors(model: Model) -> list[Tensor]:
    """Every tensor of a checkpoint of this model, layer by layer; a value head, a critic or adapters are not among them.

    Raises:
      ValueError: a parameter that the family's checkpoints have no name for, as those of a reward head of several layers.
    """
    left_out = {VALUE_HEAD, CRITIC, LORA} | ({"head"} if model.reward_head else set())  # a classifier has no table of output tokens
    paths = {path for path, _ in leaves(model.shapes) if path[0] not in left_out}
    rows = [
        Tensor(name, layout, tuple((tuple(path.split(".")), ours) for path, ours in parts))
        for name, layout, parts in _table(model.config.family)
        if all(tuple(path.split(".")) in paths for path, _ in parts)
    ]
    homeless = paths - {path for row in rows for path, _ in row.leaves}
    if any(path[0] == REWARD_HEAD for path in homeless):
        of_text = "with a reward head of several layers", "Score with the run itself (runs/NAME), or train with model.reward_head='linear'."
        of_columns = "with a reward head on features", "Score rows that have the features with the run itself (runs/NAME)."
        what, way = of_text if model.features is None else of_columns
        raise ValueError(f"transformers has no class {what}, so there is no folder to write. {way}")
    if homeless:
        names = ", ".join(sorted(".".join(path) for path in homeless))
        raise ValueError(f"checkpoints of family {model.config.family!r} have no tensor for {names}; choose a family that has them.")
    single = [row for row in rows if row.leaves[0][0][0] != "layers"]
    stacked = [row for row in rows if row.leaves[0][0][0] == "layers"]
    for layer in range(model.config.layers):
        single += [dataclasses.replace(row, name=row.name.format(layer), layer=layer) for row in stacked]
    return single


def leaves(tree: dict, path: Path = ()) -> list[tuple[Path, object]]:
    """(path, leaf) of every leaf of a nested dict, sorted by path."""
    found = []
    for name in sorted(tree):
        below = tree[name]
        found += leaves(below, (*path, name)) if isinstance(below, dict) else [((*path, name), below)]
    return found


def file_shape(tensor: Tensor, config: ModelConfig) -> tuple[int, ...]:
    """Shape of the tensor in the checkpoint (vocabulary not padded)."""
    return tuple(int(np.prod([_sizes(config)[letter] for letter in group])) for group in tensor.layout.split())


def to_leaves(tensor: Tensor, array: np.ndarray, config: ModelConfig) -> list[np.ndarray]:
    """Our leaves of a checkpoint tensor, in the order of tensor.leaves, the vocabulary padded with zeros: views where possible."""
    letters = tensor.layout.replace(" ", "")
    array = array.reshape([_sizes(config)[letter] for letter in letters])
    found = []
    for part, (_, ours) in enumerate(tensor.leaves):
        piece = np.take(array, part, axis=letters.index("3")) if "3" in letters else array
        piece = piece.transpose([letters.replace("3", "").index(letter) for letter in ours])
        if "V" in ours:
            piece = np.pad(piece, [(0, config.padded_vocab - config.vocab_size if letter == "V" else 0) for letter in ours])
        found.append(piece)
    return found


def from_leaves(tensor: Tensor, arrays: list[np.ndarray], config: ModelConfig) -> np.ndarray:
    """The checkpoint tensor of our leaves: the exact inverse of `to_leaves`, contiguous."""
    letters = tensor.layout.replace(" ", "")
    pieces = []
    for array, (_, ours) in zip(arrays, tensor.leaves, strict=True):
        array = array[: config.vocab_size] if ours.startswith("V") else array
        pieces.append(array.transpose([ours.index(letter) for letter in letters.replace("3", "")]))
    whole = np.stack(pieces, axis=letters.index("3")) if "3" in letters else pieces[0]
    return np.ascontiguousarray(whole.reshape(file_shape(tensor, config)))


def _sizes(config: ModelConfig) -> dict[str, int]:
    sizes = {"D": config.width, "H": config.heads, "K": config.kv_heads, "E": config.head_dim, "F": config.mlp_width}
    return sizes | {"V": config.vocab_size, "P": config.max_positions, "1": 1, "3": 3}


def _table(family: str) -> list[tuple[str, str, list[tuple[str, str]]]]:
    if family in ("gpt_neox", "gpt2"):
        return {"gpt_neox": _GPT_NEOX, "gpt2": _GPT2}[family] + _SCORE
    return _LLAMA + (_GEMMA_NORMS if family in ("gemma2", "gemma3") else _LLAMA_NORMS) + _SCORE


def _both(name: str, weight_layout: str, bias_layout: str, path: str, ours: str, ours_bias: str):
    return [
        (f"{name}.weight", weight_layout, [(f"{path}.kernel", ours)]),
        (f"{name}.bias", bias_layout, [(f"{path}.bias", ours_bias)]),
    ]


def _norm(name: str, path: str):
    return [(f"{name}.weight", "D", [(f"{path}.scale", "D")]), (f"{name}.bias", "D", [(f"{path}.bias", "D")])]


def _fused(name: str, weight_layout: str, bias_layout: str):
    return [
        (f"{name}.weight", weight_layout, [(f"layers.attention.{part}.kernel", "DHE") for part in "qkv"]),
        (f"{name}.bias", bias_layout, [(f"layers.attention.{part}.bias", "HE") for part in "qkv"]),
    ]


_SCORE = [(classifiers.TENSOR, "1 D", [(f"{REWARD_HEAD}.score.kernel", "D1")])]
_LLAMA = [
    ("model.embed_tokens.weight", "V D", [("embed.tokens", "VD")]),
    *_norm("model.norm", "final_norm"),
    ("lm_head.weight", "V D", [("head.kernel", "VD")]),
    *_norm("model.layers.{}.input_layernorm", "layers.attention_norm"),
    *_both("model.layers.{}.self_attn.q_proj", "HE D", "HE", "layers.attention.q", "DHE", "HE"),
    *_both("model.layers.{}.self_attn.k_proj", "KE D", "KE", "layers.attention.k", "DKE", "KE"),
    *_both("model.layers.{}.self_attn.v_proj", "KE D", "KE", "layers.attention.v", "DKE", "KE"),
    *_both("model.layers.{}.self_attn.o_proj", "D HE", "D", "layers.attention.output", "HED", "D"),
    ("model.layers.{}.self_attn.q_norm.weight", "E", [("layers.attention.q_norm.scale", "E")]),
    ("model.layers.{}.self_attn.k_norm.weight", "E", [("layers.attention.k_norm.scale", "E")]),
    *_both("model.layers.{}.mlp.gate_proj", "F D", "F", "layers.mlp.gate", "DF", "F"),
    *_both("model.layers.{}.mlp.up_proj", "F D", "F", "layers.mlp.up", "DF", "F"),
    *_both("model.layers.{}.mlp.down_proj", "D F", "D", "layers.mlp.down", "FD", "D"),
]
_LLAMA_NORMS = _norm("model.layers.{}.post_attention_layernorm", "layers.mlp_norm")
_GEMMA_NORMS = [
    *_norm("model.layers.{}.post_attention_layernorm", "layers.post_attention_norm"),
    *_norm("model.layers.{}.pre_feedforward_layernorm", "layers.mlp_norm"),
    *_norm("model.layers.{}.post_feedforward_layernorm", "layers.post_mlp_norm"),
]
_GPT_NEOX = [
    ("gpt_neox.embed_in.weight", "V D", [("embed.tokens", "VD")]),
    *_norm("gpt_neox.final_layer_norm", "final_norm"),
    ("embed_out.weight", "V D", [("head.kernel", "VD")]),
    *_norm("gpt_neox.layers.{}.input_layernorm", "layers.attention_norm"),
    *_norm("gpt_neox.layers.{}.post_attention_layernorm", "layers.mlp_norm"),
    *_fused("gpt_neox.layers.{}.attention.query_key_value", "H3E D", "H3E"),
    *_both("gpt_neox.layers.{}.attention.dense", "D HE", "D", "layers.attention.output", "HED", "D"),
    *_both("gpt_neox.layers.{}.mlp.dense_h_to_4h", "F D", "F", "layers.mlp.up", "DF", "F"),
    *_both("gpt_neox.layers.{}.mlp.dense_4h_to_h", "D F", "D", "layers.mlp.down", "FD", "D"),
]
_GPT2 = [  # its linear maps are stored [inputs, outputs]
    ("transformer.wte.weight", "V D", [("embed.tokens", "VD")]),
    ("transformer.wpe.weight", "P D", [("embed.positions", "PD")]),
    *_norm("transformer.ln_f", "final_norm"),
    ("lm_head.weight", "V D", [("head.kernel", "VD")]),
    *_norm("transformer.h.{}.ln_1", "layers.attention_norm"),
    *_norm("transformer.h.{}.ln_2", "layers.mlp_norm"),
    *_fused("transformer.h.{}.attn.c_attn", "D 3HE", "3HE"),
    *_both("transformer.h.{}.attn.c_proj", "HE D", "D", "layers.attention.output", "HED", "D"),
    *_both("transformer.h.{}.mlp.c_fc", "D F", "F", "layers.mlp.up", "DF", "F"),
    *_both("transformer.h.{}.mlp.c_proj", "F D", "D", "layers.mlp.down", "FD", "D"),
]

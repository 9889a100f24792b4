"""`python -m tests.benchmarks.compare.weights JSON FOLDER`: a checkpoint of random weights of a case's shape, written in seconds.

JSON holds fields of a Case. Billions of random numbers take minutes to draw, so one table of a million of them is repeated, from another
place for every tensor; its length is a prime, so no two rows of a matrix are alike.
"""

import json
from pathlib import Path
import sys
import zlib

import ml_dtypes
import numpy as np

from tests.benchmarks.compare.cases import Case

TABLE = 1_000_003  # numbers
STD = 0.02


def write(case: Case, folder: Path) -> None:
    """Writes config.json and model.safetensors: matrices of float32, or of bfloat16 for cases in that; norms are ones."""
    name, dtype = ("BF16", ml_dtypes.bfloat16) if case.dtype == "bfloat16" else ("F32", np.float32)
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", **case.config}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}))
    header, end, size = {"__metadata__": {"format": "pt"}}, 0, np.dtype(dtype).itemsize
    shapes = _shapes(case.config)
    for tensor, shape in shapes.items():
        start, end = end, end + int(np.prod(shape)) * size
        header[tensor] = {"dtype": name, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    table = (STD * np.random.default_rng(0).standard_normal(TABLE)).astype(dtype)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor, shape in shapes.items():
            count = int(np.prod(shape))
            turned = np.ones(count, dtype) if len(shape) == 1 else np.roll(table, zlib.crc32(tensor.encode()) % TABLE)
            whole = turned.tobytes()
            for _ in range(count // len(turned)):
                file.write(whole)
            file.write(whole[: count % len(turned) * size])


def _shapes(config: dict) -> dict[str, list[int]]:
    width, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim", width // heads)
    queries, keys = heads * head, config["num_key_value_heads"] * head
    layer = {"self_attn.q_proj": [queries, width], "self_attn.k_proj": [keys, width], "self_attn.v_proj": [keys, width]}
    layer |= {"self_attn.o_proj": [width, queries], "mlp.gate_proj": [inner, width], "mlp.up_proj": [inner, width]}
    layer |= {"mlp.down_proj": [width, inner], "input_layernorm": [width], "post_attention_layernorm": [width]}
    table = [config["vocab_size"], width]
    layers = range(config["num_hidden_layers"])
    shapes = {"model.embed_tokens.weight": table}
    shapes |= {f"model.layers.{i}.{name}.weight": shape for i in layers for name, shape in layer.items()}
    shapes |= {"model.norm.weight": [width]}
    return shapes if config["tie_word_embeddings"] else {**shapes, "lm_head.weight": table}


if __name__ == "__main__":
    write(Case(**json.loads(sys.argv[1])), Path(sys.argv[2]))

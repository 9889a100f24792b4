"""ModelConfig -> config.json of Hugging Face transformers, in keys that transformers 4 and 5 read."""

import dataclasses
from typing import Any

from jaxalign.hf import rotary
from jaxalign.hf.config import ARCHITECTURES, MODEL_TYPES, SHARED, from_json, sizes_of
from jaxalign.models.config import ModelConfig

ACTIVATION_NAMES = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}


def to_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json of this model, in keys that transformers 4 and 5 read.

    Raises:
      ValueError: the family's config.json cannot express a setting of this config, which is named.
    """
    writer = {"gpt2": _gpt2_json, "gpt_neox": _gpt_neox_json}.get(config.family, _llama_like_json)
    model_type = MODEL_TYPES[config.family]
    values = {"architectures": [ARCHITECTURES[model_type][1]], "model_type": model_type}
    values |= {key: getattr(config, field) for field, key in (sizes_of(config.family) | SHARED).items()} | writer(config)
    back = from_json(values)
    lost = [f.name for f in dataclasses.fields(config) if getattr(back, f.name) != getattr(config, f.name)]
    if lost:
        told = ", ".join(f"{name} = {getattr(config, name)!r}" for name in lost)
        raise ValueError(f"a {model_type} config.json cannot express {told}; choose a family that has it, or change the model config.")
    return values


def _llama_like_json(config: ModelConfig) -> dict[str, Any]:
    family, activation = config.family, ACTIVATION_NAMES[config.activation]
    values = {
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "hidden_activation" if family.startswith("gemma") else "hidden_act": activation,
        "rope_theta": config.rope_theta,
        "rope_scaling": rotary.to_json(config.rope_scaling),
    }
    if family == "gemma":
        values["hidden_act"] = activation
    if family not in ("qwen2", "mistral"):
        values["attention_bias"] = config.qkv_bias
    if family == "llama":
        values["mlp_bias"] = config.mlp_bias
    if family not in ("llama", "gemma"):
        values["sliding_window"] = max(config.windows) or None
    if family not in ("llama", "gemma", "mistral"):
        values["layer_types"] = ["sliding_attention" if window else "full_attention" for window in config.windows]
    if family in ("qwen2", "qwen3"):
        values["use_sliding_window"] = max(config.windows) > 0
        values["max_window_layers"] = next((i for i, window in enumerate(config.windows) if window), config.layers)
    if family in ("gemma2", "gemma3"):
        scalar = config.attention_scale**-2
        values["query_pre_attn_scalar"] = round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar
        values["attn_logit_softcapping"] = config.attention_softcap or None
        values["final_logit_softcapping"] = config.logit_softcap or None
    if family == "gemma3":
        values["rope_local_base_freq"] = config.local_rope_theta
    return values


def _gpt_neox_json(config: ModelConfig) -> dict[str, Any]:
    return {
        "layer_norm_eps": config.norm_eps,
        "hidden_act": ACTIVATION_NAMES[config.activation],
        "attention_bias": config.qkv_bias,
        "rotary_pct": config.rotary_fraction,
        "rotary_emb_base": config.rope_theta,
        "rope_scaling": rotary.to_json(config.rope_scaling),
        "use_parallel_residual": config.parallel_residual,
    }


def _gpt2_json(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_inner": config.mlp_width,
        "layer_norm_epsilon": config.norm_eps,
        # GPT-2's own name for the tanh form: transformers computes it in another order, so the other name changes last bits
        "activation_function": "gelu_new" if config.activation == "gelu_tanh" else ACTIVATION_NAMES[config.activation],
    }

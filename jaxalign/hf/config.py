"""config.json of Hugging Face transformers <-> ModelConfig, both directions, for every supported family.

What the decoder cannot reproduce (mixtures of experts, other rotary types, bidirectional attention, quantised weights) is refused with its
name and value; keys that do not change the function computed (dropout, cache, token ids) are passed over.
"""

import dataclasses
from typing import Any

from jaxalign.models.config import ModelConfig, RopeScaling

ARCHITECTURES = {  # config.json model_type -> (family, class that transformers loads it with)
    "llama": ("llama", "LlamaForCausalLM"),
    "mistral": ("mistral", "MistralForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma": ("gemma", "GemmaForCausalLM"),
    "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3_text": ("gemma3", "Gemma3ForCausalLM"),
    "gpt_neox": ("gpt_neox", "GPTNeoXForCausalLM"),
    "gpt2": ("gpt2", "GPT2LMHeadModel"),
}
MODEL_TYPES = {family: model_type for model_type, (family, _) in ARCHITECTURES.items()}

ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu"} | dict.fromkeys(
    ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh"
)
ACTIVATION_NAMES = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}

# Our fields and their keys, where the two hold the same value.
SIZES = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "max_positions": "max_position_embeddings",
}
GPT2_SIZES = {"vocab_size": "vocab_size", "width": "n_embd", "layers": "n_layer", "heads": "n_head", "max_positions": "n_positions"}
SHARED = {"tied": "tie_word_embeddings", "init_std": "initializer_range"}  # may be absent

# Keys whose only supported values are these (absent counts as supported).
REQUIRED = {
    "quantization_config": (None,),
    "use_bidirectional_attention": (None, False),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
}


def from_json(values: dict[str, Any]) -> ModelConfig:
    """The ModelConfig of a parsed config.json, in the key style of transformers 4 or 5.

    Raises:
      ValueError: an unsupported model type or setting, or a missing key, each with its name.
    """
    model_type = values.get("model_type")
    if model_type == "gemma3" and "text_config" in values:
        raise ValueError(
            "config.json is of model_type 'gemma3' with a vision tower; only text is supported. "
            "Save the language model alone (Gemma3ForCausalLM, model_type 'gemma3_text') and load that folder."
        )
    if model_type not in ARCHITECTURES:
        raise ValueError(f"config.json has model_type {model_type!r}; supported are {sorted(ARCHITECTURES)} (dense text decoders).")
    for key, accepted in REQUIRED.items():
        if key in values and values[key] not in accepted:
            raise ValueError(f"config.json sets {key} to {values[key]!r}; for a {model_type} only {accepted[0]!r} is supported.")
    family = ARCHITECTURES[model_type][0]
    try:
        fields = {"gpt2": _gpt2, "gpt_neox": _gpt_neox}.get(family, _llama_like)(family, values)
        sizes = {field: values[key] for field, key in _sizes(family).items()}
        shared = {field: values[key] for field, key in SHARED.items() if key in values}
        return ModelConfig(**{**fields, **sizes, **shared, "family": family})
    except KeyError as missing:
        raise ValueError(f"config.json of a {model_type} has no key {missing}; it is needed to build the model.") from missing


def to_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json of this model, in keys that transformers 4 and 5 read.

    Raises:
      ValueError: the family's config.json cannot express a setting of this config, which is named.
    """
    writer = {"gpt2": _gpt2_json, "gpt_neox": _gpt_neox_json}.get(config.family, _llama_like_json)
    model_type = MODEL_TYPES[config.family]
    values = {"architectures": [ARCHITECTURES[model_type][1]], "model_type": model_type}
    values |= {key: getattr(config, field) for field, key in (_sizes(config.family) | SHARED).items()} | writer(config)
    back = from_json(values)
    lost = [f.name for f in dataclasses.fields(config) if getattr(back, f.name) != getattr(config, f.name)]
    if lost:
        told = ", ".join(f"{name} = {getattr(config, name)!r}" for name in lost)
        raise ValueError(f"a {model_type} config.json cannot express {told}; choose a family that has it, or change the model config.")
    return values


def _sizes(family: str) -> dict[str, str]:
    return GPT2_SIZES if family == "gpt2" else SIZES


def _activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"config.json names the activation {name!r}; supported are {sorted(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def _rope(values: dict[str, Any], default_theta: float, theta_key: str = "rope_theta") -> tuple[float, RopeScaling, float | None]:
    """Base, scaling and rotated fraction (None: not said) from `rope_parameters` (5) or `rope_theta` and `rope_scaling` (4)."""
    given = {**(values.get("rope_scaling") or {}), **(values.get("rope_parameters") or {})}
    theta = float(given.get("rope_theta", values.get(theta_key, default_theta)))
    kind = given.get("rope_type", given.get("type", "default"))
    fraction = given.get("partial_rotary_factor")
    if kind == "default":
        return theta, RopeScaling(), fraction
    if kind == "linear":
        return theta, RopeScaling("linear", float(given["factor"])), fraction
    if kind == "llama3":
        low, high = float(given["low_freq_factor"]), float(given["high_freq_factor"])
        original = int(given.get("original_max_position_embeddings", values["max_position_embeddings"]))
        return theta, RopeScaling("llama3", float(given["factor"]), low, high, original), fraction
    raise ValueError(
        f"config.json asks for rotary scaling of type {kind!r}; supported are 'default', 'linear' and 'llama3'. "
        "Within the pretrained context, removing rope_scaling from config.json gives the unscaled model."
    )


def _scaling_json(scaling: RopeScaling) -> dict[str, Any] | None:
    if scaling.kind == "none":
        return None
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency,
        "high_freq_factor": scaling.high_frequency,
        "original_max_position_embeddings": scaling.original_positions,
    }


def _windows(family: str, values: dict[str, Any]) -> tuple[int, ...]:
    layers, window = values["num_hidden_layers"], values.get("sliding_window")
    if family in ("llama", "gemma") or not window:
        return (0,) * layers
    if family in ("qwen2", "qwen3") and not values.get("use_sliding_window", False):
        return (0,) * layers
    kinds = values.get("layer_types")
    if kinds is None:
        pattern = values.get("sliding_window_pattern", 6)
        sliding = {
            "mistral": lambda i: True,
            "gemma2": lambda i: i % 2 == 0,
            "gemma3": lambda i: (i + 1) % pattern != 0,
        }.get(family, lambda i: i >= values.get("max_window_layers", 28))
        return tuple(window if sliding(i) else 0 for i in range(layers))
    unknown = set(kinds) - {"sliding_attention", "full_attention"}
    if unknown:
        raise ValueError(f"config.json lists layer_types {sorted(unknown)}; supported are 'sliding_attention' and 'full_attention'.")
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _local_rope(values: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Gemma 3: the values with the rotary parameters of its full layers only, and the base of its sliding layers."""
    nested = values.get("rope_parameters") or {}
    if "full_attention" not in nested:
        return values, float(values.get("rope_local_base_freq", 10000.0))
    if nested["sliding_attention"].get("rope_type", "default") != "default":
        raise ValueError("config.json scales the rotary positions of sliding layers; only full_attention layers may be scaled.")
    return {**values, "rope_parameters": nested["full_attention"]}, float(nested["sliding_attention"].get("rope_theta", 10000.0))


def _llama_like(family: str, values: dict[str, Any]) -> dict[str, Any]:
    gemma, late_gemma = family.startswith("gemma"), family in ("gemma2", "gemma3")
    heads, width = values["num_attention_heads"], values["hidden_size"]
    attention_bias = family == "qwen2" or values.get("attention_bias", False)
    activation = _activation(values.get("hidden_activation") or values.get("hidden_act") or ("gelu_pytorch_tanh" if gemma else "silu"))
    values, local_theta = _local_rope(values) if family == "gemma3" else (values, None)
    theta, scaling, fraction = _rope(values, 1e6 if family == "gemma3" else 10000.0)
    if fraction not in (None, 1.0):
        raise ValueError(f"config.json rotates a fraction {fraction} of each head; for a {family} only the whole head is supported.")
    fields = dict(
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or (256 if gemma else 128 if family == "qwen3" else width // heads),
        norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        norm_offset=gemma,
        post_norms=late_gemma,
        # Gemma's "gelu" is a legacy name of the tanh form, as in its released configs.
        activation="gelu_tanh" if gemma and activation == "gelu" else activation,
        qkv_bias=attention_bias,
        output_bias=attention_bias and family != "qwen2",
        mlp_bias=family == "llama" and values.get("mlp_bias", False),
        rope_theta=theta,
        rope_scaling=scaling,
        local_rope_theta=local_theta,
        qk_norm=family in ("qwen3", "gemma3"),
        windows=_windows(family, values),
        embed_scale=width**0.5 if gemma else 1.0,
        tied=gemma,
    )
    if late_gemma:
        caps = (50.0, 30.0) if family == "gemma2" else (None, None)
        fields["attention_softcap"] = float(values.get("attn_logit_softcapping", caps[0]) or 0)
        fields["logit_softcap"] = float(values.get("final_logit_softcapping", caps[1]) or 0)
        fields["query_scale"] = values.get("query_pre_attn_scalar", 256) ** -0.5
    return fields


def _llama_like_json(config: ModelConfig) -> dict[str, Any]:
    family, activation = config.family, ACTIVATION_NAMES[config.activation]
    values = {
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "hidden_activation" if family.startswith("gemma") else "hidden_act": activation,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_json(config.rope_scaling),
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


def _gpt_neox(family: str, values: dict[str, Any]) -> dict[str, Any]:
    theta, scaling, fraction = _rope(values, 10000.0, "rotary_emb_base")
    bias = values.get("attention_bias", True)
    return _classic(values, "layer_norm_eps", "hidden_act", "gelu") | dict(
        qkv_bias=bias,
        output_bias=bias,
        rotary_fraction=values.get("rotary_pct", 0.25) if fraction is None else fraction,
        rope_theta=theta,
        rope_scaling=scaling,
        parallel_residual=values.get("use_parallel_residual", True),
    )


def _gpt_neox_json(config: ModelConfig) -> dict[str, Any]:
    return {
        "layer_norm_eps": config.norm_eps,
        "hidden_act": ACTIVATION_NAMES[config.activation],
        "attention_bias": config.qkv_bias,
        "rotary_pct": config.rotary_fraction,
        "rotary_emb_base": config.rope_theta,
        "rope_scaling": _scaling_json(config.rope_scaling),
        "use_parallel_residual": config.parallel_residual,
    }


def _gpt2(family: str, values: dict[str, Any]) -> dict[str, Any]:
    return _classic(values, "layer_norm_epsilon", "activation_function", "gelu_new") | dict(
        mlp_width=values.get("n_inner") or 4 * values["n_embd"],
        qkv_bias=True,
        output_bias=True,
        rotary_fraction=0.0,
        learned_positions=True,
        tied=True,
    )


def _gpt2_json(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_inner": config.mlp_width,
        "layer_norm_epsilon": config.norm_eps,
        # GPT-2's own name for the tanh form: transformers computes it in another order, so the other name changes last bits
        "activation_function": "gelu_new" if config.activation == "gelu_tanh" else ACTIVATION_NAMES[config.activation],
    }


def _classic(values: dict[str, Any], eps_key: str, activation_key: str, activation: str) -> dict[str, Any]:
    """What GPT-NeoX and GPT-2 share: LayerNorm, a plain MLP with biases, as many key heads as heads."""
    sizes = GPT2_SIZES if "n_embd" in values else SIZES
    heads = values[sizes["heads"]]
    return dict(
        kv_heads=heads,
        head_dim=values[sizes["width"]] // heads,
        norm="layer",
        norm_eps=float(values.get(eps_key, 1e-5)),
        activation=_activation(values.get(activation_key, activation)),
        gated=False,
        mlp_bias=True,
    )

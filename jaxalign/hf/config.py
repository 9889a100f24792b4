"""config.json of Hugging Face transformers <-> ModelConfig, both directions, for every supported family.

What the decoder cannot reproduce (mixtures of experts, other rotary types, bidirectional attention, quantised weights) is refused with its name
and value; keys that do not change the function computed (dropout, cache, token ids) are passed over.
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

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
ACTIVATION_NAMES = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}

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
            raise ValueError(f"config.json of a {model_type} sets {key} to {values[key]!r}, which is not supported; it must be {accepted[0]!r}.")
    family = ARCHITECTURES[model_type][0]
    try:
        return {"gpt2": _gpt2, "gpt_neox": _gpt_neox}.get(family, _llama_like)(family, values)
    except KeyError as missing:
        raise ValueError(f"config.json of a {model_type} has no key {missing}; it is needed to build the model.") from missing


def to_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json of this model, in keys that transformers 4 and 5 read.

    Raises:
      ValueError: the family's config.json cannot express a setting of this config, which is named.
    """
    writer = {"gpt2": _gpt2_json, "gpt_neox": _gpt_neox_json}.get(config.family, _llama_like_json)
    model_type = MODEL_TYPES[config.family]
    values = {"architectures": [ARCHITECTURES[model_type][1]], "model_type": model_type, **writer(config)}
    back = from_json(values)
    lost = [f.name for f in dataclasses.fields(config) if getattr(back, f.name) != getattr(config, f.name)]
    if lost:
        told = ", ".join(f"{name} = {getattr(config, name)!r}" for name in lost)
        raise ValueError(f"a {model_type} config.json cannot express {told}; choose a family that has it, or change the model config.")
    return values


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
        f"config.json asks for rotary scaling of type {kind!r}; supported are 'default', 'linear' and 'llama3'. Within the pretrained context, "
        "removing rope_scaling from config.json gives the unscaled model."
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


def _llama_like(family: str, values: dict[str, Any]) -> ModelConfig:
    gemma, late_gemma = family.startswith("gemma"), family in ("gemma2", "gemma3")
    heads, width = values["num_attention_heads"], values["hidden_size"]
    attention_bias = family == "qwen2" or values.get("attention_bias", False)
    activation = _activation(values.get("hidden_activation") or values.get("hidden_act") or ("gelu_pytorch_tanh" if gemma else "silu"))
    local_theta = None
    if family == "gemma3":
        nested = values.get("rope_parameters") or {}
        if "full_attention" in nested:
            local_theta = float(nested["sliding_attention"].get("rope_theta", 10000.0))
            if nested["sliding_attention"].get("rope_type", "default") != "default":
                raise ValueError("config.json scales the rotary positions of sliding layers; only full_attention layers may be scaled.")
            values = {**values, "rope_parameters": nested["full_attention"]}
        else:
            local_theta = float(values.get("rope_local_base_freq", 10000.0))
    theta, scaling, fraction = _rope(values, 1e6 if family == "gemma3" else 10000.0)
    if fraction not in (None, 1.0):
        raise ValueError(f"config.json rotates a fraction {fraction} of each head; for a {family} only the whole head is supported.")
    return ModelConfig(
        family=family,
        vocab_size=values["vocab_size"],
        width=width,
        layers=values["num_hidden_layers"],
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or (256 if gemma else 128 if family == "qwen3" else width // heads),
        mlp_width=values["intermediate_size"],
        max_positions=values["max_position_embeddings"],
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
        attention_softcap=float(values.get("attn_logit_softcapping", 50.0 if family == "gemma2" else None) or 0) if late_gemma else 0.0,
        logit_softcap=float(values.get("final_logit_softcapping", 30.0 if family == "gemma2" else None) or 0) if late_gemma else 0.0,
        embed_scale=width**0.5 if gemma else 1.0,
        query_scale=values.get("query_pre_attn_scalar", 256) ** -0.5 if late_gemma else None,
        tied=values.get("tie_word_embeddings", gemma),
        init_std=values.get("initializer_range", 0.02),
    )


def _llama_like_json(config: ModelConfig) -> dict[str, Any]:
    family, activation = config.family, ACTIVATION_NAMES[config.activation]
    values = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "hidden_activation" if family.startswith("gemma") else "hidden_act": activation,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_json(config.rope_scaling),
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_std,
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


def _gpt_neox(family: str, values: dict[str, Any]) -> ModelConfig:
    heads, width = values["num_attention_heads"], values["hidden_size"]
    theta, scaling, fraction = _rope(values, 10000.0, "rotary_emb_base")
    bias = values.get("attention_bias", True)
    return ModelConfig(
        family=family,
        vocab_size=values["vocab_size"],
        width=width,
        layers=values["num_hidden_layers"],
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        mlp_width=values["intermediate_size"],
        max_positions=values["max_position_embeddings"],
        norm="layer",
        norm_eps=float(values.get("layer_norm_eps", 1e-5)),
        activation=_activation(values.get("hidden_act", "gelu")),
        gated=False,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=True,
        rotary_fraction=values.get("rotary_pct", 0.25) if fraction is None else fraction,
        rope_theta=theta,
        rope_scaling=scaling,
        parallel_residual=values.get("use_parallel_residual", True),
        tied=values.get("tie_word_embeddings", False),
        init_std=values.get("initializer_range", 0.02),
    )


def _gpt_neox_json(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_positions,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": ACTIVATION_NAMES[config.activation],
        "attention_bias": config.qkv_bias,
        "rotary_pct": config.rotary_fraction,
        "rotary_emb_base": config.rope_theta,
        "rope_scaling": _scaling_json(config.rope_scaling),
        "use_parallel_residual": config.parallel_residual,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_std,
    }


def _gpt2(family: str, values: dict[str, Any]) -> ModelConfig:
    heads, width = values["n_head"], values["n_embd"]
    return ModelConfig(
        family=family,
        vocab_size=values["vocab_size"],
        width=width,
        layers=values["n_layer"],
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        mlp_width=values.get("n_inner") or 4 * width,
        max_positions=values["n_positions"],
        norm="layer",
        norm_eps=float(values.get("layer_norm_epsilon", 1e-5)),
        activation=_activation(values.get("activation_function", "gelu_new")),
        gated=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        rotary_fraction=0.0,
        learned_positions=True,
        tied=values.get("tie_word_embeddings", True),
        init_std=values.get("initializer_range", 0.02),
    )


def _gpt2_json(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "n_positions": config.max_positions,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": ACTIVATION_NAMES[config.activation],
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_std,
    }

"""config.json of Hugging Face transformers -> ModelConfig, for every supported family; `config_json` is the other direction.

An absent key has the default of the family's config class in transformers. What the decoder cannot reproduce (mixtures of experts,
other rotary types, bidirectional attention, quantised weights) is refused with its name and value; keys that do not change the function
computed (dropout, cache, token ids) are passed over, and any other key that nobody reads is named.
"""

from typing import Any

from jaxalign.hf import notes, rotary
from jaxalign.hf.values import Values
from jaxalign.models.config import ModelConfig

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
LAYERS, POSITIONS = 1024, 2**31  # the largest that are believed; published models have at most 126 layers

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

# What an absent key means, where families differ (transformers' configuration_*.py).
KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32, "gemma": 16, "gemma2": 4, "gemma3": 4}  # llama: as many as heads
HEAD_DIM = {"qwen3": 128, "gemma": 256, "gemma2": 256, "gemma3": 256}  # others: width / heads
WINDOW = 4096
SOFTCAPS = {"gemma2": (50.0, 30.0), "gemma3": (None, None)}  # attention, logits

# Keys whose only supported values are these (absent counts as supported).
REQUIRED = {
    "quantization_config": (None,),
    "use_bidirectional_attention": (None, False),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
}
# Keys that leave the function of a decoder as it is: how it was saved, trained or is sampled from.
HARMLESS = frozenset(
    "architectures model_type torch_dtype dtype transformers_version _name_or_path name_or_path use_cache return_dict cache_implementation "
    "bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id decoder_start_token_id id2label label2id problem_type "
    "attention_dropout hidden_dropout classifier_dropout resid_pdrop embd_pdrop attn_pdrop dropout gradient_checkpointing "
    "output_attentions output_hidden_states chunk_size_feed_forward is_decoder pretraining_tp reorder_and_upcast_attn "
    "summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout task_specific_params "
    "_sliding_window_pattern _attn_implementation attn_implementation n_ctx finetuning_task tokenizer_class".split()
)
SAMPLING = frozenset(
    "temperature top_k top_p typical_p do_sample num_beams num_return_sequences max_length min_length repetition_penalty "
    "length_penalty early_stopping no_repeat_ngram_size".split()
)


def from_json(values: dict[str, Any]) -> ModelConfig:
    """The ModelConfig of a parsed config.json, in the key style of transformers 4 or 5. Keys that are not read are named once.

    Raises:
      ValueError: an unsupported model type or setting, a missing key, or a value of the wrong type or size, each with its name.
    """
    if not isinstance(values, dict):
        raise ValueError(f"config.json holds a {type(values).__name__}, not a section of keys; download or copy it again.")
    model_type = values.get("model_type")
    if model_type == "gemma3" and "text_config" in values:
        raise ValueError(
            "config.json is of model_type 'gemma3' with a vision tower; only text is supported. "
            "Save the language model alone (Gemma3ForCausalLM, model_type 'gemma3_text') and load that folder."
        )
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise ValueError(f"config.json has model_type {model_type!r}; supported are {sorted(ARCHITECTURES)} (dense text decoders).")
    read, family = Values(values), ARCHITECTURES[model_type][0]
    for key, accepted in REQUIRED.items():
        if key in values and read.raw(key) not in accepted:
            raise ValueError(f"config.json sets {key} to {values[key]!r}; for a {model_type} only {accepted[0]!r} is supported.")
    bounds = {"layers": LAYERS, "max_positions": POSITIONS}
    sizes = {field: read.size(key, **({"most": bounds[field]} if field in bounds else {})) for field, key in sizes_of(family).items()}
    fields = {"gpt2": _gpt2, "gpt_neox": _gpt_neox}.get(family, _llama_like)(family, read, sizes)
    shared = {"tied": read.flag(SHARED["tied"], fields.get("tied", False)), "init_std": read.number(SHARED["init_std"], 0.02)}
    config = ModelConfig(**{**fields, **sizes, **shared, "family": family})
    if unread := read.unread(HARMLESS | SAMPLING):
        notes.say_once(f"config.json of a {model_type}: {len(unread)} keys mean nothing to this model: {', '.join(sorted(unread))}.")
    return config


def sizes_of(family: str) -> dict[str, str]:
    """Our fields -> the family's keys."""
    return GPT2_SIZES if family == "gpt2" else SIZES


def _activation(values: Values, key: str, default: str, legacy: dict[str, str] | None = None) -> str:
    name = values.text(key, default)
    name = (legacy or {}).get(name, name)
    if name not in ACTIVATIONS:
        raise ValueError(f"config.json sets {key} to the activation {name!r}; supported are {sorted(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def _llama_activation(family: str, values: Values) -> str:
    if not family.startswith("gemma"):
        return _activation(values, "hidden_act", "silu")
    used, other = ("hidden_act", "hidden_activation") if family == "gemma" else ("hidden_activation", "hidden_act")
    tanh = "gelu_pytorch_tanh"
    legacy = {"gelu": tanh} if family == "gemma" else {}  # as in Gemma 1's released configs
    written = [key for key in (used, other) if values.raw(key, None) is not None]
    names = {used: "gelu_tanh"} | {key: _activation(values, key, tanh, legacy) for key in written}
    if len(set(names.values())) > 1:
        raise ValueError(f"config.json names the activations {names}; {used} counts for this family: remove {other}, or correct it.")
    return names[used]


def _windows(family: str, values: Values, layers: int) -> tuple[int, ...]:
    if family in ("llama", "gemma"):
        return (0,) * layers
    window = values.size("sliding_window", WINDOW, null=True)
    kinds, first = values.raw("layer_types", None), values.size("max_window_layers", 28, least=0, most=LAYERS)
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise values.wrong("layer_types", f"a list of {layers} kinds, one per layer")
        if unknown := {str(kind) for kind in kinds} - {"sliding_attention", "full_attention"}:
            raise ValueError(f"config.json lists layer_types {sorted(unknown)}; supported are 'sliding_attention' and 'full_attention'.")
    if family in ("qwen2", "qwen3"):
        if not values.flag("use_sliding_window", False) or window is None:
            return (0,) * layers
        slides = [i >= first for i in range(layers)]
    elif family == "mistral":
        if kinds is not None and len({window is not None, *(kind == "sliding_attention" for kind in kinds)}) > 1:
            raise values.wrong("layer_types", f"absent: a mistral has sliding_window {window} in every layer")
        return (window or 0,) * layers
    else:
        pattern = 2 if family == "gemma2" else values.size("sliding_window_pattern", 6, most=LAYERS)
        slides = [(i + 1) % pattern != 0 for i in range(layers)]
    slides = slides if kinds is None else [kind == "sliding_attention" for kind in kinds]
    if window is None and any(slides):
        raise values.wrong("sliding_window", "a number: this model has sliding layers")
    return tuple(window if slide else 0 for slide in slides)


def _llama_like(family: str, values: Values, sizes: dict[str, int]) -> dict[str, Any]:
    gemma, late_gemma = family.startswith("gemma"), family in ("gemma2", "gemma3")
    bias = family == "qwen2" or (family != "mistral" and values.flag("attention_bias", False))
    turned, local_theta = rotary.read_local(values) if family == "gemma3" else (rotary.read(values), None)
    if turned.fraction != 1.0:
        raise ValueError(f"config.json rotates a fraction {turned.fraction} of each head; for a {family} only the whole head is supported.")
    fields = dict(
        kv_heads=values.size("num_key_value_heads", KV_HEADS.get(family), null=True) or sizes["heads"],
        head_dim=values.size("head_dim", HEAD_DIM.get(family), null=family not in HEAD_DIM) or _even_share(values, family, sizes),
        norm_eps=values.number("rms_norm_eps", 1e-6),
        norm_offset=gemma,
        post_norms=late_gemma,
        activation=_llama_activation(family, values),
        qkv_bias=bias,
        output_bias=bias and family != "qwen2",
        mlp_bias=family == "llama" and values.flag("mlp_bias", False),
        rope_theta=turned.theta,
        rope_scaling=turned.scaling,
        local_rope_theta=local_theta,
        qk_norm=family in ("qwen3", "gemma3"),
        windows=_windows(family, values, sizes["layers"]),
        embed_scale=sizes["width"] ** 0.5 if gemma else 1.0,
        tied=gemma,
    )
    if late_gemma:
        attention, logits = SOFTCAPS[family]
        fields["attention_softcap"] = values.number("attn_logit_softcapping", attention, null=True) or 0.0
        fields["logit_softcap"] = values.number("final_logit_softcapping", logits, null=True) or 0.0
        fields["query_scale"] = values.number("query_pre_attn_scalar", 256) ** -0.5
    return fields


def _even_share(values: Values, family: str, sizes: dict[str, int]) -> int:
    if sizes["width"] % sizes["heads"]:
        keys = sizes_of(family)
        raise values.wrong(keys["width"], f"a multiple of {keys['heads']} ({sizes['heads']})")
    return sizes["width"] // sizes["heads"]


def _gpt_neox(family: str, values: Values, sizes: dict[str, int]) -> dict[str, Any]:
    turned = rotary.read(values, rotary.Keys("rotary_emb_base", 10000.0, "rotary_pct", 0.25))
    bias = values.flag("attention_bias", True)
    return _classic(family, values, sizes, "layer_norm_eps", "hidden_act", "gelu") | dict(
        qkv_bias=bias,
        output_bias=bias,
        rotary_fraction=turned.fraction,
        rope_theta=turned.theta,
        rope_scaling=turned.scaling,
        parallel_residual=values.flag("use_parallel_residual", True),
    )


def _gpt2(family: str, values: Values, sizes: dict[str, int]) -> dict[str, Any]:
    return _classic(family, values, sizes, "layer_norm_epsilon", "activation_function", "gelu_new") | dict(
        mlp_width=values.size("n_inner", None, null=True) or 4 * sizes["width"],
        qkv_bias=True,
        output_bias=True,
        rotary_fraction=0.0,
        learned_positions=True,
        tied=True,
    )


def _classic(family: str, values: Values, sizes: dict[str, int], eps_key: str, activation_key: str, activation: str) -> dict[str, Any]:
    """What GPT-NeoX and GPT-2 share: LayerNorm, a plain MLP with biases, as many key heads as heads."""
    return dict(
        kv_heads=sizes["heads"],
        head_dim=_even_share(values, family, sizes),
        norm="layer",
        norm_eps=values.number(eps_key, 1e-5),
        activation=_activation(values, activation_key, activation),
        gated=False,
        mlp_bias=True,
    )

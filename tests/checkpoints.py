"""Random tiny Hugging Face checkpoints of every family, and plain rows to run our models on."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import sharding
from jaxalign.models import model as models

_SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, vocab_size=101)
_SIZES |= dict(max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
_LLAMA3_ROPE = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
_WINDOW = 5  # shorter than every test row
_CAPS = dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0)
_NEOX = {key: value for key, value in _SIZES.items() if key != "num_key_value_heads"}

CASES = {  # name -> (model_type, config arguments)
    "llama": ("llama", dict(_SIZES, attention_bias=True, mlp_bias=True, rope_theta=1000.0, rope_scaling=_LLAMA3_ROPE)),
    "llama_tied": ("llama", dict(_SIZES, tie_word_embeddings=True, head_dim=16, rope_scaling=dict(rope_type="linear", factor=4.0))),
    "mistral": ("mistral", dict(_SIZES, sliding_window=_WINDOW)),
    "qwen2": ("qwen2", dict(_SIZES, tie_word_embeddings=True, rope_theta=1e6)),
    "qwen2_window": ("qwen2", dict(_SIZES, use_sliding_window=True, sliding_window=_WINDOW, max_window_layers=1)),
    "qwen3": ("qwen3", dict(_SIZES, head_dim=16, attention_bias=True)),
    "gemma": ("gemma", dict(_SIZES, head_dim=16)),
    "gemma2": ("gemma2", dict(_SIZES, head_dim=16, sliding_window=_WINDOW, query_pre_attn_scalar=24, **_CAPS)),
    "gemma3": (
        "gemma3_text",
        dict(
            _SIZES, head_dim=16, sliding_window=_WINDOW, query_pre_attn_scalar=24,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                "sliding_attention": dict(rope_type="default", rope_theta=100.0),
            },
        ),
    ),
    "gpt_neox": ("gpt_neox", dict(_NEOX, rotary_pct=0.25, use_parallel_residual=True)),
    "gpt_neox_sequential": ("gpt_neox", dict(_NEOX, rotary_pct=1.0, use_parallel_residual=False, rotary_emb_base=500)),
    "gpt2": ("gpt2", dict(n_embd=32, n_layer=3, n_head=4, n_positions=64, vocab_size=101, bos_token_id=1, eos_token_id=2)),
}  # fmt: skip


def torch_model(name: str):
    """A transformers model (float32, eager attention) whose every parameter is random: norms and biases too, so that none can hide."""
    import torch
    import transformers

    model_type, arguments = CASES[name]
    config = transformers.AutoConfig.for_model(model_type, **arguments)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            around = 1.0 if "norm" in key and key.endswith("weight") and not model_type.startswith("gemma") else 0.0
            parameter.copy_(around + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def one_device():
    """The mesh of a single device."""
    return sharding.make_mesh(devices=jax.devices()[:1])


def plain(tokens: np.ndarray) -> tuple[jax.Array, ...]:
    """tokens, positions, segments, prefixes of rows that hold one whole sequence each, on the mesh in scope."""
    tokens = np.asarray(tokens, np.int32)
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return rows(tokens, positions, np.ones_like(tokens), np.zeros_like(tokens))


def rows(*arrays: np.ndarray) -> tuple[jax.Array, ...]:
    """Host arrays [R, T] on the mesh in scope, split over rows."""
    return tuple(jax.device_put(np.asarray(x, np.int32), sharding.named(sharding.rows_spec(2))) for x in arrays)


def hidden(model: models.Model, params: dict, inputs, **options) -> jax.Array:
    """Hidden states in float32 without remat, unless options say otherwise."""
    return models.hidden(model, params, *inputs, **{"dtype": jnp.float32, "remat": "none", "attention": "xla", **options})


def logits(model: models.Model, params: dict, inputs, **options) -> jax.Array:
    """Logits [R, T, vocab_size] in float32, soft cap included."""
    states = hidden(model, params, inputs, **options)
    table = sharding.gather(models.unembed(model, params), "vocab", "embed")
    found = sharding.shard(jnp.einsum("rtd,vd->rtv", states, table), "rows", None, None)
    cap = model.config.logit_softcap
    return (cap * jnp.tanh(found / cap) if cap else found)[..., : model.config.vocab_size]

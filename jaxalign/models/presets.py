"""Named architectures without weights: for planning, ahead-of-time compiles, benchmarks and tests."""

from jaxalign.models.config import ModelConfig, RopeScaling
from jaxalign.suggest import meant

_LLAMA31 = dict(rope_theta=500000.0, rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 8192), norm_eps=1e-5, vocab_size=128256)
_GEMMA = dict(norm_offset=True, activation="gelu_tanh", tied=True)
_GEMMA_POST = dict(_GEMMA, post_norms=True)

PRESETS = {
    "tiny": ModelConfig(
        family="llama", vocab_size=512, width=64, layers=2, heads=8, kv_heads=4, head_dim=8, mlp_width=128, max_positions=512, tied=True
    ),
    "llama3-8b": ModelConfig(
        **dict(_LLAMA31, rope_scaling=RopeScaling()),
        family="llama",
        width=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        mlp_width=14336,
        max_positions=8192,
    ),
    "llama3-70b": ModelConfig(
        **dict(_LLAMA31, rope_scaling=RopeScaling()),
        family="llama",
        width=8192,
        layers=80,
        heads=64,
        kv_heads=8,
        head_dim=128,
        mlp_width=28672,
        max_positions=8192,
    ),
    "llama3-1b": ModelConfig(
        **dict(_LLAMA31, rope_scaling=RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)),
        family="llama",
        width=2048,
        layers=16,
        heads=32,
        kv_heads=8,
        head_dim=64,
        mlp_width=8192,
        max_positions=131072,
        tied=True,
    ),
    "mistral-7b": ModelConfig(
        family="mistral",
        vocab_size=32000,
        width=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        mlp_width=14336,
        max_positions=32768,
        norm_eps=1e-5,
        windows=(4096,) * 32,
    ),
    "qwen2.5-7b": ModelConfig(
        family="qwen2",
        vocab_size=152064,
        width=3584,
        layers=28,
        heads=28,
        kv_heads=4,
        head_dim=128,
        mlp_width=18944,
        max_positions=32768,
        rope_theta=1e6,
        qkv_bias=True,
    ),
    "pythia-2.8b": ModelConfig(
        family="gpt_neox",
        vocab_size=50304,
        width=2560,
        layers=32,
        heads=32,
        kv_heads=32,
        head_dim=80,
        mlp_width=10240,
        max_positions=2048,
        norm="layer",
        norm_eps=1e-5,
        activation="gelu",
        gated=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        rotary_fraction=0.25,
        parallel_residual=True,
    ),
    "gemma2-2b": ModelConfig(
        **_GEMMA_POST,
        family="gemma2",
        vocab_size=256000,
        width=2304,
        layers=26,
        heads=8,
        kv_heads=4,
        head_dim=256,
        mlp_width=9216,
        max_positions=8192,
        windows=(4096, 0) * 13,
        attention_softcap=50.0,
        logit_softcap=30.0,
        embed_scale=2304**0.5,
        query_scale=256**-0.5,
    ),
    "gemma3-1b": ModelConfig(
        **_GEMMA_POST,
        family="gemma3",
        vocab_size=262144,
        width=1152,
        layers=26,
        heads=4,
        kv_heads=1,
        head_dim=256,
        mlp_width=6912,
        max_positions=32768,
        rope_theta=1e6,
        local_rope_theta=10000.0,
        qk_norm=True,
        windows=tuple(0 if (i + 1) % 6 == 0 else 512 for i in range(26)),
        embed_scale=1152**0.5,
        query_scale=256**-0.5,
    ),
    "gpt2": ModelConfig(
        family="gpt2",
        vocab_size=50257,
        width=768,
        layers=12,
        heads=12,
        kv_heads=12,
        head_dim=64,
        mlp_width=3072,
        max_positions=1024,
        norm="layer",
        norm_eps=1e-5,
        activation="gelu_tanh",
        gated=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        rotary_fraction=0.0,
        learned_positions=True,
        tied=True,
    ),
}


def preset(name: str) -> ModelConfig:
    """The architecture of that name.

    Raises:
      ValueError: an unknown name, with the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"model.preset={name!r} is not one of {', '.join(PRESETS)}{meant(name, PRESETS)}.")
    return PRESETS[name]

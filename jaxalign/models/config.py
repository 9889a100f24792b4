"""What distinguishes one dense decoder from another, as one checked, frozen record.

Every supported family (Llama 2/3, Mistral, Qwen 2/2.5/3, Gemma 1/2/3, GPT-NeoX, GPT-2) is a setting of these fields; `hf.config` writes
and reads them as config.json, `presets` names a few.
"""

import dataclasses

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt_neox", "gpt2")
NORMS = ("rms", "layer")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
ROPE_SCALINGS = ("none", "linear", "llama3")
REWARD_HEADS = ("linear", "mlp")  # kinds of `heads.RewardHead`
ATTENTIONS = ("auto", "xla", "pallas_gpu", "pallas_tpu")  # the choice by device, and the names in `attention.rule.IMPLEMENTATIONS`
VOCAB_MULTIPLE = 128  # so that the vocabulary splits over any tensor axis up to 128 and fills whole TPU lanes


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than the ones pretrained on.

    "linear" divides every frequency by `factor`. "llama3" divides wavelengths above original_positions / low_frequency by `factor`, keeps
    those below original_positions / high_frequency, and interpolates between.
    """

    kind: str = "none"
    factor: float = 1.0
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    original_positions: int = 8192

    def __post_init__(self):
        if self.kind not in ROPE_SCALINGS:
            raise ValueError(f"rope scaling {self.kind!r} is not supported; choose one of {ROPE_SCALINGS}.")
        if self.factor < 1:
            raise ValueError(f"rope scaling factor {self.factor} must be at least 1 (1 changes nothing).")
        if self.kind == "llama3" and self.high_frequency <= self.low_frequency:
            raise ValueError(f"rope high_frequency {self.high_frequency} must be greater than low_frequency {self.low_frequency}.")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture of a decoder. Sizes are numbers of elements.

    Raises:
      ValueError: a combination that the decoder cannot build, with the value, the rule and the way out.
    """

    family: str  # whose tensor names and config.json it is written with
    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    max_positions: int
    norm: str = "rms"
    norm_eps: float = 1e-6
    norm_offset: bool = False  # multiply by 1 + scale (Gemma)
    post_norms: bool = False  # also normalise what attention and MLP add (Gemma 2 and 3)
    activation: str = "silu"
    gated: bool = True  # MLP = down(activation(gate(x)) * up(x)); else down(activation(up(x)))
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    rotary_fraction: float = 1.0  # leading part of each head that is rotated; 0 = no rotary
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = RopeScaling()
    local_rope_theta: float | None = None  # base of layers with a window, unscaled (Gemma 3); None = as all others
    learned_positions: bool = False
    qk_norm: bool = False
    parallel_residual: bool = False
    windows: tuple[int, ...] = ()  # one a layer: sees the last n positions, 0 = all; () = 0 for every layer
    attention_softcap: float = 0.0  # scores become cap * tanh(scores / cap); 0 = none
    logit_softcap: float = 0.0
    embed_scale: float = 1.0
    query_scale: float | None = None  # None = head_dim ** -0.5
    tied: bool = False  # the output head is the embedding table
    init_std: float = 0.02

    def __post_init__(self):
        if not self.windows:
            object.__setattr__(self, "windows", (0,) * self.layers)
        object.__setattr__(self, "windows", tuple(self.windows))
        problems = list(_problems(self))
        if problems:
            raise ValueError(f"model config of family {self.family!r}: " + " ".join(problems))

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding table and the head: vocab_size rounded up to a multiple of 128. The extra rows are zeros, their logits are
        masked where log-probs are computed, and they are left out on export."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def rotary_dim(self) -> int:
        """Leading elements of each head that are rotated."""
        return int(self.head_dim * self.rotary_fraction)

    @property
    def attention_scale(self) -> float:
        """What queries are multiplied by before the dot product."""
        return self.head_dim**-0.5 if self.query_scale is None else self.query_scale


def _problems(config: ModelConfig):
    if config.family not in FAMILIES:
        yield f"unknown family; choose one of {FAMILIES}."
    for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "max_positions"):
        if getattr(config, name) < 1:
            yield f"{name} {getattr(config, name)} must be at least 1."
            return
    if config.heads % config.kv_heads:
        yield f"heads {config.heads} must be a multiple of kv_heads {config.kv_heads}."
    if config.norm not in NORMS:
        yield f"norm {config.norm!r} is not one of {NORMS}."
    if config.norm_offset and config.norm != "rms":
        yield "norm_offset needs norm 'rms'."
    if config.activation not in ACTIVATIONS:
        yield f"activation {config.activation!r} is not one of {ACTIVATIONS}."
    if not 0 <= config.rotary_fraction <= 1 or config.rotary_dim % 2:
        yield f"rotary_fraction {config.rotary_fraction} must lie in [0, 1] and rotate an even number of head_dim {config.head_dim}."
    if config.learned_positions == (config.rotary_fraction > 0):
        yield "positions are learned or rotary: set exactly one of learned_positions and rotary_fraction > 0."
    if len(config.windows) != config.layers or min(config.windows) < 0:
        yield f"windows {config.windows} must hold {config.layers} numbers >= 0, one a layer (0 = no window), or be empty."
    if config.parallel_residual and config.post_norms:
        yield "post_norms and parallel_residual exclude each other."
    if min(config.attention_softcap, config.logit_softcap) < 0:
        yield "soft caps must be >= 0 (0 = none)."

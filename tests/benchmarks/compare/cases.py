"""What is compared: the shape of a model, the lengths of its pairs, the method, and the batch of a step."""

import dataclasses

import numpy as np

# Keys of a config.json of transformers' Llama; all have random weights unless a folder is given.
SHAPES = {
    "toy": dict(hidden_size=64, num_hidden_layers=2, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2, vocab_size=512),
    "tiny": dict(hidden_size=256, num_hidden_layers=4, intermediate_size=688, num_attention_heads=8, num_key_value_heads=4),
    "small": dict(hidden_size=512, num_hidden_layers=8, intermediate_size=1376, num_attention_heads=8, num_key_value_heads=4),
    "135m": dict(  # SmolLM2-135M
        hidden_size=576,
        num_hidden_layers=30,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        rope_theta=100000.0,
        tie_word_embeddings=True,
    ),
    "1b": dict(  # Llama-3.2-1B
        hidden_size=2048,
        num_hidden_layers=16,
        intermediate_size=8192,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        vocab_size=128256,
        rope_theta=500000.0,
        tie_word_embeddings=True,
    ),
    "8b": dict(  # Llama-3-8B
        hidden_size=4096,
        num_hidden_layers=32,
        intermediate_size=14336,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        rope_theta=500000.0,
    ),
}
SHARED = dict(vocab_size=32000, max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False)
PAD, BOS, EOS, FIRST = 0, 1, 2, 3  # ids of the generated pairs; FIRST is the first one of text


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How long prompts and answers are: log-normal, cut at both ends, or even between the ends where `spread` is 0."""

    prompt: tuple[int, int, int]  # shortest, median, longest
    answer: tuple[int, int, int]
    spread: float  # standard deviation of the logarithm

    def draw(self, random: np.random.Generator) -> tuple[int, int, int]:
        """Tokens of a prompt and of two answers, which end with EOS."""
        return tuple(self._one(random, *ends) for ends in (self.prompt, self.answer, self.answer))

    def _one(self, random, least, median, most):
        if not self.spread:
            return int(random.integers(least, most + 1))
        return int(np.clip(round(median * np.exp(self.spread * random.standard_normal())), least, most))


# Medians and spreads are those of the data sets' rows under a tokenizer of 50k tokens.
LENGTHS = {
    "short": Lengths((8, 12, 16), (4, 10, 16), 0.0),
    "even": Lengths((96, 128, 160), (64, 128, 192), 0.0),
    "hh": Lengths((16, 106, 512), (8, 40, 256), 0.9),
    "ultrafeedback": Lengths((32, 256, 1024), (16, 200, 768), 1.0),
    "chat": Lengths((32, 160, 512), (32, 200, 512), 0.7),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison."""

    shape: str  # of SHAPES
    lengths: str  # of LENGTHS
    pairs: int  # prompts of a step
    method: str = "dpo"  # "dpo", "sft" or "kto"
    rows: int = 1  # packed rows of a step, on our side
    rank: int = 0  # of adapters on a frozen base; 0: all weights are trained
    precomputed: bool = False  # log-probs of the reference are there before the first step
    parts: int = 1  # of a step, one after the other, on our side
    peer_parts: int = 1  # the same on the other side, which needs more memory
    dtype: str = "float32"  # of the matmuls, on both sides
    learning_rate: float = 1e-4
    remat: str = "dots"

    @property
    def config(self) -> dict:
        """The config.json of the model."""
        ids = dict(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
        return {**SHARED, **ids, **SHAPES[self.shape]}

    @property
    def answers(self) -> int:
        """Answers of a prompt that are trained on."""
        return 2 if self.method == "dpo" else 1


CASES = {
    "dpo-tiny": Case("tiny", "even", 8),
    "dpo-small": Case("small", "hh", 8),
    "dpo-135m": Case("135m", "hh", 8),
    "ultrafeedback": Case("small", "ultrafeedback", 4),
    "precomputed": Case("tiny", "even", 8, precomputed=True),
    "kto": Case("tiny", "even", 8, method="kto"),
    "sft": Case("tiny", "even", 16, method="sft"),
    "lora": Case("small", "even", 8, rank=16),
    "dpo-1b": Case("1b", "chat", 32, rows=8, peer_parts=4, dtype="bfloat16", learning_rate=1e-5),
    "lora-8b": Case("8b", "chat", 16, rows=4, peer_parts=4, rank=16, dtype="bfloat16"),
    "dpo-8b": Case("8b", "chat", 16, rows=4, peer_parts=4, dtype="bfloat16", learning_rate=1e-6, remat="full"),
}

"""Heads on the hidden states of a decoder.

The value of a prompt, by attention pooling (A-LoL, arXiv 2305.14718, published code), the reward of a response, read at its last token, and
the value of every token for a critic (PPO), which is a reward head with a bias.
"""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp

from jaxalign import sharding
from jaxalign.models import layers, layout
from jaxalign.models.config import ModelConfig

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ValueHeadConfig:
    """What a value head is.

    Raises:
      ValueError: a number that is not above 0.
    """

    max_value: float = 1.0  # values lie in (0, max_value): the largest reward, so the number of rewards in [0, 1] that are summed
    heads: int = 8  # attention heads; where that does not divide the width, the largest number below that does

    def __post_init__(self):
        if not self.max_value > 0 or self.heads < 1:
            raise ValueError(f"value head max_value={self.max_value}, heads={self.heads}: both must be above 0; 1.0 and 8 are usual.")


class ValueHead(nnx.Module):
    """One learned query attends to the prompt; a linear map and a sigmoid make a value of it. Float32, no dropout.

    The keys have no bias: it would add the same to every score of a head, and the soft-max would drop it.
    """

    def __init__(self, config: ModelConfig, head: ValueHeadConfig):
        count = max(n for n in range(1, head.heads + 1) if config.width % n == 0)
        width, heads, size = (config.width, "embed"), (count, None), (config.width // count, None)
        std = config.width**-0.5
        self.query = layers.weight((config.width,), ("embed",), std=1.0)
        self.q = layers.Linear([width], [heads, size], bias=True, std=std)
        self.k = layers.Linear([width], [heads, size], bias=False, std=std)
        self.v = layers.Linear([width], [heads, size], bias=True, std=std)
        self.output = layers.Linear([heads, size], [width], bias=True, std=std)
        self.linear = layers.Linear([width], [(1, None)], bias=True, std=std)
        self.max_value = head.max_value

    def __call__(self, hidden: Array, prompts: Array) -> Array:
        """Values float32[R, S] of the tokens that prompts bool[R, S, T] picks from hidden [R, T, D]; 0 where it picks none.

        The hidden states are constants: the head does not train the decoder.
        """
        rows, slots, _ = prompts.shape
        x = layout.merge_rows(jax.lax.stop_gradient(hidden).astype(jnp.float32))
        k, v = layout.split_rows(self.k(x), rows), layout.split_rows(self.v(x), rows)
        kernel, bias = (layers.gathered(weight, jnp.float32) for weight in (self.q.kernel, self.q.bias))
        q = jnp.einsum("d,dhe->he", layers.gathered(self.query, jnp.float32), kernel) + bias
        scores = jnp.einsum("rthe,he->rht", k, q) * q.shape[-1] ** -0.5
        weights, by_row = masked_softmax(scores[:, None], prompts[:, :, None]), sharding.rows_spec(4)
        pooled = jnp.einsum("rsht,rthe->rshe", weights, v, out_sharding=by_row)
        logit = self.linear(self.output(layout.merge_rows(pooled)))
        values = self.max_value * jax.nn.sigmoid(layout.split_rows(logit, rows)[..., 0])
        return jnp.where(prompts.any(-1), values, 0.0)


class RewardHead(nnx.Module):
    """A score of hidden states, without a bias on the score unless asked for. Float32.

    "linear" is one map D -> 1, as Hugging Face's sequence classifiers with one label have it. "mlp" puts D -> D/2 -> D/2 -> D with ReLU
    before it (arXiv 2407.13887, published code). The last map starts with a standard deviation of 1/(D + 1) as there, so that scores start
    near 0 and the loss of a pair near log 2.
    """

    def __init__(self, config: ModelConfig, kind: str, *, bias: bool = False):
        width, half = (config.width, "embed"), (config.width // 2, None)

        def inner(source, target):
            return layers.Linear([source], [target], bias=True, std=(2 / source[0]) ** 0.5)  # He's, for ReLU

        mlp = kind == "mlp"
        self.first = inner(width, half) if mlp else None
        self.second = inner(half, half) if mlp else None
        self.third = inner(half, width) if mlp else None
        self.score = layers.Linear([width], [(1, None)], bias=bias, std=1 / (config.width + 1))

    def __call__(self, hidden: Array) -> Array:
        """Scores float32[R, X] of hidden states [R, X, D]."""
        x = layout.merge_rows(hidden.astype(jnp.float32))
        for layer in (self.first, self.second, self.third):
            x = x if layer is None else jax.nn.relu(layer(x))
        return layout.split_rows(self.score(x), hidden.shape[0])[..., 0]


def last_tokens(positions: Array, slots: Array, count: int) -> Array:
    """Which token is the last scored one of response slot s of its row, s < count: bool[R, count, T]; none where none is scored.

    int32[R, T] arrays as in `types.Batch`.
    """
    scored = slots[:, None, :] == jnp.arange(count)[:, None]
    last = jnp.where(scored, positions[:, None], -1).max(2, keepdims=True)
    return scored & (positions[:, None] == last)


def masked_softmax(scores: Array, mask: Array) -> Array:
    """Soft-max over the last axis of what the mask keeps, 0 elsewhere and where it keeps nothing."""
    largest = jnp.where(mask, scores, -jnp.inf).max(-1, keepdims=True)
    shifted = scores - jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    weights = jnp.where(mask, jnp.exp(jnp.where(mask, shifted, 0.0)), 0.0)
    return weights / jnp.maximum(weights.sum(-1, keepdims=True), jnp.finfo(weights.dtype).tiny)


def prompts_of(positions: Array, segments: Array, prefixes: Array, slots: Array, count: int) -> Array:
    """Which tokens are the prompt of response slot s of their row, s < count: bool[R, count, T]; none for a slot without scored tokens.

    They are those that the response's first scored token sees before it: of its own segment and of its prefix, at earlier positions.
    int32[R, T] arrays as in `types.Batch`.
    """
    scored = slots[:, None, :] == jnp.arange(count)[:, None]

    def of_response(x: Array) -> Array:
        return jnp.where(scored, x[:, None], 0).max(2, keepdims=True)  # one response has one segment and one prefix

    first = jnp.where(scored, positions[:, None], jnp.iinfo(jnp.int32).max).min(2, keepdims=True)
    seen = (segments[:, None] == of_response(segments)) | (segments[:, None] == of_response(prefixes))
    return seen & (segments[:, None] > 0) & (positions[:, None] < first)

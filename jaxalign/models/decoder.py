"""One decoder for every supported family: flax.nnx modules that declare the weights and say how tokens become hidden states.

Training, the prefill of prompts and decoding differ in what a query sees, so that comes from outside, as `Attend`.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import offload, sharding
from jaxalign.models import layers, layout
from jaxalign.models.attention.blocks import ATTENDED
from jaxalign.models.config import ModelConfig, RopeScaling

Array = jax.Array

# (scaled queries [R, T, H, E], keys and values [R, T, KV, E], window int32[], memory of the layer) -> (attention like q, what is kept)
Attend = Callable[[Array, Array, Array, Array, Any], tuple[Array, Any]]


SHORT_SUM = 8  # a product whose result has more than so many times the numbers of each sum is computed again


def _all_but_gathers(primitive, *_, **__) -> bool:
    # A gathered weight that is kept for the backward pass would undo ZeRO-3: the whole model, unsharded, on every device.
    return primitive.name not in ("reshard", "all_gather")


def _products(primitive, *operands, **options) -> bool:
    # Outputs of linear maps, not scores of attention, and not the (x A) B of adapters: each is as large as the output of its map, and
    # costs next to nothing to compute again, for it sums over few numbers.
    if primitive.name in ("reduce_scatter", "psum", "psum_invariant"):  # an output that is summed over tensor is kept as the sum only
        return True
    if primitive.name != "dot_general" or options["dimension_numbers"][1][0]:
        return False
    summed = math.prod(operands[1].shape[axis] for axis in options["dimension_numbers"][0][1])
    return summed * SHORT_SUM >= math.prod(operands[1].shape) // summed


_attention = jax.checkpoint_policies.save_only_these_names(ATTENDED)  # else attention is computed three times: again for its own gradient

REMAT = {  # what the forward pass keeps for the backward pass
    "none": _all_but_gathers,
    # outputs of linear maps and of attention, not attention scores
    "dots": jax.checkpoint_policies.save_from_both_policies(_products, _attention),
    "attention": _attention,  # the input of each layer, and the output of attention with its log-sum-exp
    "full": jax.checkpoint_policies.nothing_saveable,  # the input of each layer only
}


class Attention(nnx.Module):
    """Grouped-query self-attention with its projections."""

    def __init__(self, config: ModelConfig):
        width, head = (config.width, "embed"), (config.head_dim, None)
        heads, kv_heads = (config.heads, "heads"), (config.kv_heads, "kv_heads")
        self.q = layers.Linear([width], [heads, head], bias=config.qkv_bias, std=config.init_std)
        self.k = layers.Linear([width], [kv_heads, head], bias=config.qkv_bias, std=config.init_std)
        self.v = layers.Linear([width], [kv_heads, head], bias=config.qkv_bias, std=config.init_std)
        self.output = layers.Linear([heads, head], [width], bias=config.output_bias, std=config.init_std)
        self.q_norm = layers.Norm(config.head_dim, None, config) if config.qk_norm else None
        self.k_norm = layers.Norm(config.head_dim, None, config) if config.qk_norm else None
        self.scale = config.attention_scale

    def __call__(self, x: Array, rotary: Array | None, window: Array, memory: Any, attend: Attend, rows: int) -> tuple[Array, Any]:
        q, k, v = layers.linears(x, self.q, self.k, self.v)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = layers.rotate(q, rotary), layers.rotate(k, rotary)
        q, k, v = (layout.split_rows(y, rows) for y in (q * jnp.asarray(self.scale, q.dtype), k, v))
        y, kept = attend(q, k, v, window, memory)
        return self.output(layout.merge_rows(y), like=x), kept


class Mlp(nnx.Module):
    """The feed-forward part, gated or plain."""

    def __init__(self, config: ModelConfig):
        width, hidden = (config.width, "embed"), (config.mlp_width, "mlp")
        self.gate = layers.Linear([width], [hidden], bias=config.mlp_bias, std=config.init_std) if config.gated else None
        self.up = layers.Linear([width], [hidden], bias=config.mlp_bias, std=config.init_std)
        self.down = layers.Linear([hidden], [width], bias=config.mlp_bias, std=config.init_std)
        self.activation = config.activation

    def __call__(self, x: Array) -> Array:
        if self.gate is None:
            return self.down(layers.activate(self.activation, self.up(x)), like=x)
        gate, up = layers.linears(x, self.gate, self.up)
        return self.down(layers.activate(self.activation, gate) * up, like=x)


class Layer(nnx.Module):
    """One residual layer on flattened tokens [N, D], wherever they lie."""

    def __init__(self, config: ModelConfig):
        def norm():
            return layers.Norm(config.width, "embed", config)

        self.attention, self.mlp = Attention(config), Mlp(config)
        self.attention_norm, self.mlp_norm = norm(), norm()
        self.post_attention_norm = norm() if config.post_norms else None
        self.post_mlp_norm = norm() if config.post_norms else None
        self.parallel = config.parallel_residual

    def __call__(self, x: Array, *inputs) -> tuple[Array, Any]:
        attended, kept = self.attention(self.attention_norm(x), *inputs)
        if self.parallel:
            return x + attended + self.mlp(self.mlp_norm(x)), kept
        x = x + (attended if self.post_attention_norm is None else self.post_attention_norm(attended))
        added = self.mlp(self.mlp_norm(x))
        return x + (added if self.post_mlp_norm is None else self.post_mlp_norm(added)), kept


class Embedding(nnx.Module):
    """The token table and, for GPT-2, the table of learned positions."""

    def __init__(self, config: ModelConfig):
        self.tokens = layers.weight((config.padded_vocab, config.width), ("vocab", "embed"), std=config.init_std)
        positions = config.max_positions, config.width
        self.positions = layers.weight(positions, (None, "embed"), std=config.init_std) if config.learned_positions else None

    def __call__(self, tokens: Array, scale: float, dtype: jnp.dtype, axis: str) -> Array:
        return layers.embed(self.tokens, tokens, dtype, axis) * jnp.asarray(scale, dtype)

    def at_positions(self, x: Array, positions: Array) -> Array:
        return x if self.positions is None else x + layers.embed(self.positions, positions, x.dtype, layout.axis_of(x))


class Head(nnx.Module):
    """The output table of a model whose head is not its embedding."""

    def __init__(self, config: ModelConfig):
        self.kernel = layers.weight((config.padded_vocab, config.width), ("vocab", "embed"), std=config.init_std)


class Decoder(nnx.Module):
    """Rows of the token table to hidden states.

    `layers` is one Layer whose weights carry a leading "layers" axis once `model.build` has stacked them.
    """

    def __init__(self, config: ModelConfig):
        self.embed = Embedding(config)
        self.layers = Layer(config)
        self.final_norm = layers.Norm(config.width, "embed", config)
        self.head = None if config.tied else Head(config)
        self.config = config

    def __call__(self, embedded: Array, positions: Array, attend: Attend, *, remat: str) -> tuple[Array, Any]:
        """(hidden states [R, T, D] of embedded tokens [N, D], what `attend` kept of every layer, with a leading axis of layers)."""
        if remat not in REMAT:
            raise ValueError(f"unknown remat policy {remat!r}; choose one of {sorted(REMAT)}.")
        x, one_layer = self._begin(embedded, positions, attend)

        def scanned(x, inputs):
            return one_layer(x, *inputs, None)

        windows = jnp.asarray(np.array(self.config.windows, np.int32))
        scanned = jax.checkpoint(scanned, policy=REMAT[remat], prevent_cse=False)
        x, kept = jax.lax.scan(scanned, x, (nnx.to_pure_dict(nnx.state(self.layers)), windows))
        return self._end(x, positions), kept

    def layer_by_layer(
        self, embedded: Array, positions: Array, attend: Attend, weights: Sequence, memories: Sequence
    ) -> tuple[Array, list]:
        """As a call, of weights and memories that are given layer by layer; what `attend` kept is a list.

        A scan would copy its slice of a memory in every step of decoding.
        """
        x, one_layer = self._begin(embedded, positions, attend)
        kept = []
        for weight, window, memory in zip(weights, self.config.windows, memories, strict=True):
            x, one = one_layer(x, weight, jnp.int32(window), memory)
            kept.append(one)
        return self._end(x, positions), kept

    def _begin(self, embedded: Array, positions: Array, attend: Attend):
        positions = sharding.shard(positions, "rows", "tokens")
        wide, local = _rotary_tables(self.config, layout.merge_rows(positions))
        definition, _ = nnx.split(self.layers)

        def one_layer(x: Array, weights, window: Array, memory) -> tuple[Array, Any]:
            rotary = wide if local is None else jnp.where(window > 0, local, wide)
            return nnx.merge(definition, offload.on_device(weights))(x, rotary, window, memory, attend, len(positions))

        return self.embed.at_positions(embedded, positions), one_layer

    def _end(self, x: Array, positions: Array) -> Array:
        return layout.split_rows(layout.lay(self.final_norm(x), layout.WHOLE), len(positions))


def _rotary_tables(config: ModelConfig, positions: Array) -> tuple[Array | None, Array | None]:
    if not config.rotary_dim:
        return None, None
    wide = layers.rotary_table(positions, layers.rotary_frequencies(config.rotary_dim, config.rope_theta, config.rope_scaling))
    if config.local_rope_theta is None:
        return wide, None
    return wide, layers.rotary_table(positions, layers.rotary_frequencies(config.rotary_dim, config.local_rope_theta, RopeScaling()))

"""The facade of `models`: a model is a config, a definition and trees of shapes and axes; everything else takes plain nested dicts.

params is a nested dict of arrays whose decoder layers are stacked on a leading "layers" axis: float32, except where `build` is told to
store the decoder's matrices otherwise. All functions need a mesh in scope (`jax.set_mesh`), except `build`, which allocates nothing.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from jaxalign import sharding
from jaxalign.models import draw, layout, quantized
from jaxalign.models import lora as adapters
from jaxalign.models.attention import cached, rule
from jaxalign.models.config import REWARD_HEADS, ModelConfig
from jaxalign.models.decoder import Decoder
from jaxalign.models.features import FeatureHead, FeatureHeadConfig, combined, scaled
from jaxalign.models.heads import RewardHead, ValueHead, ValueHeadConfig, last_tokens, prompts_of

Array = jax.Array
VALUE_HEAD = "value_head"  # the top-level key of the params of a model that has one, beside those of the decoder
REWARD_HEAD = "reward_head"  # the same
CRITIC = "critic"  # the same
DECODER = "decoder"  # the key of the decoder among the params of a critic that has its own
HEADS = (VALUE_HEAD, REWARD_HEAD, CRITIC)
LORA = adapters.LORA  # the same, of its adapters
MATRICES = ("kernel", "tokens", "positions")  # names of the decoder's parameters that are neither norms nor biases
BASE_DTYPES = ("float32", "bfloat16", *quantized.KINDS)  # what a decoder's matrices may be stored in


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """What a model is apart from its numbers. `shapes` and `axes` are the nested dicts of params with other leaves."""

    config: ModelConfig
    definition: nnx.GraphDef
    shapes: dict[str, Any]  # jax.ShapeDtypeStruct, or a quantized.Quantized of them
    axes: dict[str, Any]  # tuple of logical axes
    starts: dict[str, Any]  # (fill, std): random weights start as fill + std * normal
    value_head: nnx.GraphDef | None = None  # of the head that values prompts, see `heads`; its weights are params[VALUE_HEAD]
    reward_head: nnx.GraphDef | None = None  # of the head that scores responses; its weights are params[REWARD_HEAD]
    critic: nnx.GraphDef | None = None  # of the head that values every token; its weights are params[CRITIC], see `critic`
    critic_decoder: "Model | None" = None  # that the critic has for itself; None: it reads the states of this model's decoder
    features: FeatureHeadConfig | None = None  # where the reward head reads features of the responses, and no hidden states
    lora: adapters.LoraConfig | None = None  # of the adapters, whose weights are params[LORA]
    base_dtype: str = "float32"  # what the decoder's matrices and tables are stored in; norms, biases, heads and adapters are float32


def build(
    config: ModelConfig,
    value_head: ValueHeadConfig | None = None,
    reward_head: str | FeatureHeadConfig | None = None,
    *,
    critic: str | None = None,
    critic_config: ModelConfig | None = None,
    lora: adapters.LoraConfig | None = None,
    base_dtype: str = "float32",
) -> Model:
    """The model of this config with the heads that are described: a reward head of a kind or on features, a critic of such a kind.

    Args:
      critic_config: of a decoder that the critic has for itself; None: it reads the states of the model's own decoder.
      lora: of its adapters; None: it has none.
      base_dtype: one of BASE_DTYPES.

    Raises:
      ValueError: reward_head or critic is none of `config.REWARD_HEADS`, base_dtype is none of BASE_DTYPES, or lora targets no linear map.
    """
    features = reward_head if isinstance(reward_head, FeatureHeadConfig) else None
    _check_one_of("base_dtype", base_dtype, BASE_DTYPES)
    _check_one_of("reward head", None if features else reward_head, (None, *REWARD_HEADS))
    _check_one_of("critic", critic, (None, *REWARD_HEADS))
    definition, state = nnx.split(nnx.eval_shape(lambda: Decoder(config)))
    declarations, heads = list(nnx.to_flat_state(state)), dict.fromkeys(HEADS)
    described = {
        VALUE_HEAD: (value_head, lambda: ValueHead(config, value_head)),
        REWARD_HEAD: (reward_head, lambda: FeatureHead(features) if features else RewardHead(config, reward_head)),
        CRITIC: (critic, lambda: RewardHead(critic_config or config, critic, bias=True)),
    }
    for name, (description, make) in described.items():
        if description is not None:
            heads[name], state = nnx.split(nnx.eval_shape(make))
            declarations += [((name, *path), parameter) for path, parameter in nnx.to_flat_state(state)]
    shapes, axes, starts, kernels = {}, {}, {}, {}

    def declare(path, shape, logical, start, stored="float32"):
        for tree, leaf in zip((shapes, axes, starts), (*quantized.described(shape, logical, stored), start), strict=True):
            _put(tree, path, leaf)

    for path, parameter in declarations:
        declared = parameter.get_metadata()
        stack = path[0] == "layers"
        shape = ((config.layers,) if stack else ()) + parameter.get_value().shape
        logical = (("layers",) if stack else ()) + declared["axes"]
        map_of_layer, matrix = stack and declared["inputs"], path[0] not in HEADS and path[-1] in MATRICES
        narrow = "bfloat16" if base_dtype in quantized.KINDS and not map_of_layer else base_dtype  # of a table nothing is quantized
        declare(path, shape, logical, (declared["fill"], declared["std"]), narrow if matrix else "float32")
        if map_of_layer:
            kernels[path] = shape, logical, declared["inputs"]
    for path, shape, logical, std in adapters.declared(kernels, lora) if lora else ():
        declare(path, shape, logical, (0.0, std))
    own = None if critic_config is None else build(dataclasses.replace(critic_config, tied=True))  # it has no output tokens
    for tree, part in ((shapes, own.shapes), (axes, own.axes), (starts, own.starts)) if own else ():
        tree[CRITIC][DECODER] = part
    return Model(config, definition, shapes, axes, starts, *heads.values(), own, features, lora, base_dtype)


def _check_one_of(what: str, value: str | None, known: tuple) -> None:
    if value not in known:
        raise ValueError(f"{what} {value!r} is not one of {', '.join(filter(None, known))}.")


def decoder(model: Model) -> Model:
    """The model without its heads, with its adapters."""
    return build(model.config, lora=model.lora, base_dtype=model.base_dtype)


def dtype_of(name: str) -> jnp.dtype:
    """The dtype of the matmuls that "float32", "bfloat16" or "auto" names on the devices here."""
    auto = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(auto if name == "auto" else name)


def without_head(tree: dict[str, Any]) -> dict[str, Any]:
    """The decoder's part of params, or of a tree of the same keys: with adapters what a causal language model's checkpoint holds."""
    return {name: subtree for name, subtree in tree.items() if name not in HEADS}


def shardings(model: Model) -> dict[str, Any]:
    """The partition of every parameter on the mesh in scope; raises ValueError for a dimension that the mesh does not divide."""
    return draw.partitions(model.shapes, model.axes)


def init(model: Model, key: Array) -> dict[str, Any]:
    """Random parameters, made in their shards; the same numbers on every mesh."""
    return draw.draw(model, key, tuple(model.shapes))


def init_heads(model: Model, key: Array) -> dict[str, Any]:
    """Random parameters of the model's heads and adapters, those of `init` with the same key: for a decoder that was loaded."""
    return draw.draw(model, key, tuple(name for name in (*HEADS, LORA) if name in model.shapes))


def hidden(
    model: Model,
    params: dict[str, Any],
    tokens: Array,
    positions: Array,
    segments: Array,
    prefixes: Array,
    *,
    embedded: Array | None = None,
    dtype: jnp.dtype,
    remat: str,
    attention: str,
) -> Array:
    """Hidden states after the final norm: [R, T, D] in the compute dtype, finite on padding, split over rows and tokens.

    embedded [R, T, D] takes the place of `embed`(tokens), so that a caller may mix embeddings; None: that of the tokens.

    tokens, positions, segments, prefixes are int32[R, T] as in `types.Batch`, split over rows. remat is "none" (keep all
    but gathered weights), "dots" (keep outputs of linear maps and of attention), "attention" (keep layer inputs and outputs of attention)
    or "full" (keep layer inputs); attention names an implementation.

    Raises:
      ValueError: an unknown remat policy or attention implementation.
    """
    decoder = _decoder(model, params)
    if embedded is None:
        x = decoder.embed(tokens, model.config.embed_scale, dtype, layout.axis_for(tokens.size))
    else:
        x = layout.lay(layout.merge_rows(embedded), layout.axis_for(tokens.size))

    def attend(q, k, v, window, _):
        marks = positions, segments, prefixes
        return rule.attend(q, k, v, *marks, window, softcap=model.config.attention_softcap, implementation=attention), None

    return decoder(x, positions, attend, remat=remat)[0]


def prefill(model: Model, params: dict[str, Any], tokens: Array, positions: Array, segments: Array, *, dtype: jnp.dtype, attention: str):
    """Keys and values of packed prompts: two arrays [layers, R, T, KV, E] in the compute dtype.

    tokens, positions, segments are int32[R, T] as in `types.Batch`. KV is the number of query heads where the mesh cannot split key heads
    (`rule.split_heads`).
    """
    decoder = _decoder(model, params)

    def attend(q, k, v, window, _):
        marks = positions, segments, jnp.zeros_like(segments)
        out = rule.attend(q, k, v, *marks, window, softcap=model.config.attention_softcap, implementation=attention)
        return out, rule.split_heads(q, k, v)

    x = decoder.embed(tokens, model.config.embed_scale, dtype, layout.axis_for(tokens.size))
    return decoder(x, positions, attend, remat="none")[1]


class Weights(NamedTuple):
    """Parameters as `decode` reads them."""

    layers: tuple[dict[str, Any], ...]
    outside: dict[str, Any]  # of the layers


def decode(model: Model, weights: Weights, tokens: Array, cache: cached.Cache, *, dtype: jnp.dtype) -> tuple[Array, cached.Cache]:
    """(hidden states [P, S, D] of one token per sample, the cache with its keys and values; the lengths stay).

    tokens are int32[P, S]: the next of each of S samples of each of P prompts.
    """
    decoder = nnx.merge(model.definition, {**weights.outside, "layers": weights.layers[0]})

    def attend(q, k, v, window, memory):
        k, v = rule.split_heads(q, k, v)
        return cached.attend(q, k, v, memory, cache.prompt_length, cache.length, window, softcap=model.config.attention_softcap)

    x = decoder.embed(tokens, model.config.embed_scale, dtype, layout.WHOLE)  # so few that to spread them would take longer
    hidden, memories = decoder.layer_by_layer(x, cache.positions(), attend, weights.layers, cache.memories)
    return hidden, cache.replace(memories=tuple(memories))


def gathered(model: Model, params: dict[str, Any], dtype: jnp.dtype) -> Weights:
    """The parameters for a loop of `decode`: matrices in the compute dtype and whole over fsdp, so that they are gathered once a loop."""

    def gather(weight, axes):
        if quantized.is_quantized(weight):
            return jax.tree.map(lambda leaf, axes: sharding.gather(leaf, *axes), weight, axes)
        matrix = sum(axis != "layers" for axis in axes) > 1  # norms are computed in float32
        return sharding.gather(weight.astype(dtype) if matrix else weight, *axes)

    axes, parts = model.axes, without_head(params).items()
    whole = _tree(model, {name: jax.tree.map(gather, tree, axes[name], is_leaf=quantized.is_quantized) for name, tree in parts})
    stacked = whole.pop("layers")
    return Weights(tuple(jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(model.config.layers)), whole)


def embed(model: Model, params: dict[str, Any], tokens: Array, *, dtype: jnp.dtype) -> Array:
    """The rows of the token table, scaled as the family does: [R, T, D]. Learned positions come on top of them, in `hidden`."""
    return layout.split_rows(_decoder(model, params).embed(tokens, model.config.embed_scale, dtype, layout.WHOLE), len(tokens))


def unembed(model: Model, params: Mapping[str, Any]) -> Array:
    """The output table float32[padded_vocab, D] as it is stored, on ("vocab", "embed"): the head, or the embedding where they are tied."""
    return params["embed"]["tokens"] if model.config.tied else params["head"]["kernel"]


def prompt_values(
    model: Model, params: dict[str, Any], hidden: Array, positions: Array, segments: Array, prefixes: Array, slots: Array, valid: Array
) -> Array:
    """The value that the head gives to the prompt of every response: float32[N, K], 0 for responses without scored tokens.

    hidden is [R, T, D] as from `hidden`, a constant here; the other arrays are those of `types.Batch`. A prompt's value does not depend
    on how rows are packed or prompts shared.
    """
    count = valid.size // len(slots)
    values = nnx.merge(model.value_head, params[VALUE_HEAD])(hidden, prompts_of(positions, segments, prefixes, slots, count))
    return values.reshape(valid.shape, out_sharding=jax.typeof(valid).sharding)


def rewards(model: Model, params: dict[str, Any], hidden: Array, positions: Array, slots: Array, valid: Array) -> Array:
    """The reward head's score of every response: float32[N, K], 0 for responses without scored tokens.

    It is read at the response's last scored token, from hidden [R, T, D] as from `hidden`; the gradient goes into the decoder. The other
    arrays are those of `types.Batch`. A reward does not depend on how rows are packed or prompts shared.
    """
    last = last_tokens(positions, slots, valid.size // len(slots))
    states = sharding.sum_tokens(last, hidden)
    scores = jnp.where(last.any(-1), token_rewards(model, params, states), 0.0)
    return scores.reshape(valid.shape, out_sharding=jax.typeof(valid).sharding)


def token_rewards(model: Model, params: dict[str, Any], hidden: Array) -> Array:
    """The reward head's score of every hidden state [R, X, D]: float32[R, X]."""
    return nnx.merge(model.reward_head, params[REWARD_HEAD])(hidden)


def feature_rewards(model: Model, params: dict[str, Any], values: Array) -> tuple[Array, Array, Array]:
    """(rewards [N, K], those of the members [N, K, E], scaled features [N, K, F]) of the features' values [N, K, F]: float32."""
    features = scaled(values, model.features)
    members = nnx.merge(model.reward_head, params[REWARD_HEAD])(features)
    return combined(members, model.features.pessimism), members, features


def _decoder(model: Model, params: Mapping[str, Any]) -> Decoder:
    return nnx.merge(model.definition, _tree(model, params))


def _tree(model: Model, params: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's part of params with the adapters, where there are some, in their places."""
    tree = adapters.off(without_head(params))
    return adapters.attached(tree, params[LORA], model.lora.scale) if LORA in params else tree


def _put(tree: dict, path: tuple, leaf) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf

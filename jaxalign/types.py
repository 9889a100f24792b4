"""The types that every part shares: one batch, one model output, one loss term, one train state.

Letters in shapes: R rows, T tokens per row, G groups (prompts) per row, K responses per group, N = R * G groups per batch,
D width, V vocabulary. Tokens live in rows, judgements live in responses; `sum_responses` and `at_tokens` are the two maps
between them. R (and with it N) is sharded over the mesh axes ("data", "fsdp"). Where a mesh splits the tokens of a row, it splits what is
as wide as the model (`Outputs.hidden`) and nothing else here.
"""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

Array = jax.Array


@struct.dataclass
class Batch:
    """A batch of packed rows.

    Token i sees token j iff j <= i, segments[i] != 0, and segments[j] is segments[i] or prefixes[i]. A plain padded row is the
    special case of one segment. Groups of row r are numbers r * G to r * G + G - 1 of the N groups.
    """

    tokens: Array  # int32[R, T]; 0 where segments == 0
    positions: Array  # int32[R, T]; position inside its own prompt + response (rotary and learned positions)
    segments: Array  # int32[R, T]; the run of tokens that it belongs to, >= 1; 0 = padding
    prefixes: Array  # int32[R, T]; the prompt segment that it also sees; 0 = none
    slots: Array  # int32[R, T]; response g * K + k of its row in which the token is scored; -1 = not scored
    reward: Array  # float32[N, K]; explicit feedback: 1 or 0, or a score in [0, 1]
    paired: Array  # bool[N]; True: response 0 is preferred to response 1; False: judged one by one
    valid: Array  # bool[N, K]; False: filler or mismatched, weight 0 everywhere
    columns: dict[str, Array] = struct.field(default_factory=dict)  # precomputed, float32 [N, K] or [R, T]; see `column`


@struct.dataclass
class Features:
    """What a reward head on features of the responses reads and gives, beside `Outputs.rewards`."""

    values: Array  # float32[N, K, F]; scaled to [0, 1] by their ranges
    members: Array  # float32[N, K, E]; rewards of the members of the ensemble
    names: tuple[str, ...] = struct.field(pytree_node=False)
    directions: tuple[int, ...] = struct.field(pytree_node=False)  # 1: more is better; -1: less is better; 0: unknown


@struct.dataclass
class Outputs:
    """One model's view of one batch. XLA prunes what nobody reads."""

    logps: Array  # float32[R, T]; log p(tokens[t] | what it sees before t), 0 where slots < 0
    hidden: Array | None = None  # [R, T, D] after the final norm; None where log-probs come from a column
    unembed: Array | None = None  # [V, D]
    prompt_values: Array | None = None  # float32[N, K]; the value head's reward expected for each response's prompt; None without a head
    greedy: Array | None = None  # int32[R, T]; the likeliest token given the gold text, 0 where slots < 0; None where it was not computed
    rewards: Array | None = None  # float32[N, K]; the reward head at the last scored token, 0 where there is none; None without a head
    step: Array | None = None  # int32[]; optimizer steps done, for objectives that draw random numbers; None where there are no steps
    features: Features | None = None  # None without a reward head on features
    values: Array | None = None  # float32[R, T]; the critic's value before each scored token is drawn, 0 where slots < 0; None without one
    vocab_size: int = struct.field(pytree_node=False, default=0)  # rows of unembed that are tokens; further rows are padding
    softcap: float | None = struct.field(pytree_node=False, default=None)  # of the logits


@struct.dataclass
class Terms:
    """What an objective returns. It never reduces over the batch: the step computes sum(loss * weight) / sum(weight) once."""

    loss: Array  # float32 [N], [N, K] or [R, T]
    weight: Array  # float32, the shape of loss; must not depend on parameters
    metrics: dict[str, tuple[Array, Array]]  # name -> (values, weights), reduced like the loss


@struct.dataclass
class TrainState:
    """Everything that a step changes, and so everything that a checkpoint contains."""

    step: Array  # int32[]; optimizer steps done
    trainable: Any  # float32 parameters, a nested dict
    reference: Any  # same tree as trainable, or None where its weights are not in memory
    opt_state: Any
    rng: Array  # uint32[2]; jax.random.wrap_key_data turns it into a key
    frozen: Any = None  # parameters that are not trained: the other top-level keys of the model's tree; None: all are trained
    initial: Any = None  # the reference as it was before the first step, where the rule moves it and it is kept to measure against
    statistics: Any = struct.field(default_factory=dict)  # name -> float32[]; what the objective carries from the batches so far
    source: Any = None  # what the source of the batches carries from step to step, see rollout.source; None: nothing


def column(batch: Batch, name: str) -> Array:
    """A precomputed column of responses, float32[N, K].

    Raises:
      ValueError: the batch has no such column (the message lists its columns and the way to get one), or the column has a number per token.
    """
    if name not in batch.columns:
        raise ValueError(
            f"the objective reads column {name!r} but the batch has {tuple(sorted(batch.columns))}. Describe it in data.computed "
            "(python -m jaxalign.annotate writes it), or name the data set's own numbers in keep_columns of the source."
        )
    if batch.columns[name].shape != batch.valid.shape:
        raise ValueError(f"column {name!r} has one number per token, but the objective reads one per response; use another kind of column.")
    return batch.columns[name]


def token_column(batch: Batch, name: str) -> Array:
    """A column of tokens, float32[R, T].

    Raises:
      ValueError: the batch has no such column (the message gives the way to get one), or the column has a number per response.
    """
    if name not in batch.columns:
        raise ValueError(
            f"the objective reads the column of tokens {name!r} but the batch has {tuple(sorted(batch.columns))}. It belongs to responses "
            "that the policy draws itself: set data.rollout."
        )
    if batch.columns[name].shape != batch.tokens.shape:
        raise ValueError(f"column {name!r} has one number per response, but the objective reads one per token; use another column.")
    return batch.columns[name]


def prompt_values(policy: Outputs) -> Array:
    """The value head's prediction for each response's prompt, float32[N, K].

    Raises:
      ValueError: the model has no value head.
    """
    if policy.prompt_values is None:
        raise ValueError("the objective reads the value head but the model has none; set model.value_head to the largest reward.")
    return policy.prompt_values


def response_rewards(policy: Outputs) -> Array:
    """The reward head's score of each response, read at its last scored token: float32[N, K]; 0 where it has none.

    Raises:
      ValueError: the model has no reward head.
    """
    if policy.rewards is None:
        raise ValueError("the objective reads the reward head but the model has none; set model.reward_head='linear'.")
    return policy.rewards


def response_features(policy: Outputs) -> Features:
    """The features of the responses that the reward head reads, with the rewards of its members.

    Raises:
      ValueError: the model has no reward head on features.
    """
    if policy.features is None:
        raise ValueError("the objective reads a reward head on features; set model.reward_head=dict(features=dict(NAME=dict(...), ...)).")
    return policy.features


def token_values(policy: Outputs) -> Array:
    """The critic's value before each scored token is drawn, float32[R, T].

    Raises:
      ValueError: the model has no critic.
    """
    if policy.values is None:
        raise ValueError("the objective reads a critic but the model has none; set model.critic='linear'.")
    return policy.values


def mismatched(batch: Batch) -> Array:
    """Which responses answer another group's prompt, kept to estimate KL(policy || reference): bool[N, K], never valid too."""
    return column(batch, "mismatched") > 0


def sum_responses(x: Array, batch: Batch) -> Array:
    """Sums x over the scored tokens of each response: [R, T] -> [N, K], float32. Unscored tokens and padding add nothing."""
    return _by_response(jnp.where(_in_response(batch), x[:, :, None].astype(jnp.float32), 0.0).sum(1), batch)


def max_responses(x: Array, batch: Batch) -> Array:
    """The largest x among the scored tokens of each response: [R, T] -> [N, K], float32; 0 where it has none. x must not be below 0."""
    return _by_response(jnp.where(_in_response(batch), x[:, :, None].astype(jnp.float32), 0.0).max(1), batch)


def at_tokens(x: Array, batch: Batch) -> Array:
    """Gives every scored token the value of its response: [N, K] -> [R, T]; 0 on tokens that are not scored."""
    rows, _ = batch.slots.shape
    groups, responses = batch.valid.shape
    by_row = x.reshape(rows, groups // rows * responses, out_sharding=jax.typeof(batch.slots).sharding)
    slots = jnp.arange(by_row.shape[1])
    return jnp.where(batch.slots[:, :, None] == slots, by_row[:, None, :], 0).sum(2)


def response_lengths(batch: Batch) -> Array:
    """Number of scored tokens of each response: float32[N, K]; 0 for filler."""
    return sum_responses(jnp.ones_like(batch.slots, dtype=jnp.float32), batch)


def weights_of_means(batch: Batch) -> Array:
    """The weights that make a mean of tokens one of the responses' own means: float32[R, T], 1 / its length at a valid response's tokens.

    They add up to 1 in a response, and to 0 in filler and where no token is scored.
    """
    return at_tokens(batch.valid.astype(jnp.float32) / jnp.maximum(response_lengths(batch), 1.0), batch)


def _in_response(batch: Batch) -> Array:
    """Whether token t of row r is scored in slot g * K + k: bool[R, T, G * K]."""
    return batch.slots[:, :, None] == jnp.arange(batch.valid.size // batch.slots.shape[0])


def _by_response(x: Array, batch: Batch) -> Array:
    """[R, G * K] -> [N, K]. The output sharding is explicit: with one row per device, inference would drop a mesh axis."""
    groups, responses = batch.valid.shape
    by_row = x.reshape(len(x), groups // len(x), responses)
    return by_row.reshape(groups, responses, out_sharding=jax.typeof(batch.valid).sharding)

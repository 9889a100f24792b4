"""States of a response, drawn at random, and how near those of a better answer are to each other: what `goal_reward` is made of.

Contrastive goal-conditioned reward models, arXiv 2407.13887; conventions as in its published code. S states are drawn per response; D is
the width of a hidden state.
"""

from collections.abc import Mapping

from flax import struct
import jax
import jax.numpy as jnp

from jaxalign import sharding
from jaxalign.types import Array, Batch, Outputs, response_lengths

SMALLEST_NORM = 1e-8
OVER_BATCH = "log_of_batch_mean"
PAIRS, GOALS, REDUCTIONS = ("all", "diagonal", "causal"), ("single", "average"), ("log_of_mean", OVER_BATCH, "mean_of_log")
SIDES = ("near", "far")  # names of the two `shares`


@struct.dataclass
class Drawn:
    """States drawn from a better and a worse answer of every group: float32[N, S, D] each."""

    source: Array  # of the better answer
    goal: Array  # of the same, goal i at or after source i
    other: Array  # of the same, independent of the two
    far: Array  # of the worse answer
    ordered: Array  # bool[N, S, S]; whether a goal is at or after a source

    def cosines(self, pairs: str, goal: str) -> tuple[Array, Array, tuple[Array, Array]]:
        """(cosines of source and goal, of other and far, which of them count): float32[N, S, S'] twice, and bool twice.

        Args:
          pairs: "all"; "diagonal", one goal for each source, at or after it, and one of far for each of other; "causal", all goals that are
            at or after the source, and all of far.
          goal: "single", or "average": the mean of the goals, and of far, is the one that there is.
        """
        ends, every = (self.goal, self.far), jnp.ones((1, 1, 1), bool)
        if goal == "average":
            ends = tuple(x.mean(1, keepdims=True) for x in ends)
        diagonal = jnp.eye(self.source.shape[1], dtype=bool)[None]
        kept = {"all": (every, every), "diagonal": (diagonal, diagonal), "causal": (self.ordered, every)}[pairs]
        return cosines(self.source, ends[0]), cosines(self.other, ends[1]), kept


def draw(policy: Outputs, batch: Batch, *, samples: int, seed: int, percentiles: tuple[float, float]) -> Drawn:
    """S = `samples` states for each role, from the answers of the highest and of the lowest feedback of every group.

    Args:
      policy: hidden states and the step.
      batch: groups of at least two responses.
      seed: of the random numbers, with the step and the content of an answer.
      percentiles: of sources and of goals, see `offsets`.
    """
    better, worse = _ends(batch)
    names, lengths = contents(batch), response_lengths(batch)
    (name, length), (other_name, other_length) = ((_of(names, k), _of(lengths, k)) for k in (better, worse))
    numbers = jnp.split(uniform(name, 3 * samples, seed=seed, step=policy.step), 3, axis=1)
    source = offsets(jnp.minimum(*numbers[:2]), length, percentiles[0])
    goal = offsets(jnp.maximum(*numbers[:2]), length, percentiles[1])
    other = offsets(numbers[2], length, percentiles[0])
    far = offsets(uniform(other_name, samples, seed=seed, step=policy.step), other_length, percentiles[1])
    parts = jnp.split(states(policy.hidden, batch, better, jnp.concatenate([source, goal, other], axis=1)), 3, axis=1)
    return Drawn(*parts, states(policy.hidden, batch, worse, far), goal[:, None] <= source[:, :, None])


def _ends(batch: Batch) -> tuple[Array, Array]:
    """The numbers of the best and of the worst valid response of every group: int32[N] twice."""
    best = jnp.where(batch.valid, batch.reward, -jnp.inf).argmax(1)
    return best.astype(jnp.int32), jnp.where(batch.valid, batch.reward, jnp.inf).argmin(1).astype(jnp.int32)


def _of(x: Array, response: Array) -> Array:
    """x[n, response[n]]: [N, K] -> [N]."""
    return jnp.where(jnp.arange(x.shape[1]) == response[:, None], x, jnp.zeros((), x.dtype)).sum(1, dtype=x.dtype)


def ranks(batch: Batch) -> Array:
    """The place of every scored token among those of its response, counted from the end: int32[R, T]; 1 = the last, 0 = not scored."""
    inside = _inside(batch)
    return jnp.where(inside, jnp.cumsum(inside[:, ::-1], axis=1)[:, ::-1], 0).sum(2)


def states(hidden: Array, batch: Batch, response: Array, offsets: Array) -> Array:
    """Hidden states of one response of every group, float32[N, S, D]; zeros where an offset is 0.

    Args:
      hidden: [R, T, D].
      response: int32[N]; its number, < K.
      offsets: int32[N, S]; places counted from the response's end, as in `ranks`.
    """
    rows, (groups, drawn) = len(batch.slots), offsets.shape
    by_row = jax.typeof(batch.slots).sharding
    places = offsets.reshape(rows, groups // rows * drawn, out_sharding=by_row)
    slots = batch.valid.shape[1] * jnp.arange(groups // rows) + response.reshape(rows, groups // rows, out_sharding=by_row)
    picked = (batch.slots[:, None] == slots.repeat(drawn, axis=1)[:, :, None]) & (ranks(batch)[:, None] == places[:, :, None])
    found = sharding.sum_tokens(picked, hidden.astype(jnp.float32))
    return found.reshape(groups, drawn, hidden.shape[2], out_sharding=jax.typeof(found).sharding)


def contents(batch: Batch) -> Array:
    """A number made of the tokens of each response and of their positions, uint32[N, K]: the same however the rows are packed."""
    by_token = _mixed(batch.tokens.astype(jnp.uint32) + _mixed(batch.positions.astype(jnp.uint32)))
    total = jnp.where(_inside(batch), by_token[:, :, None], jnp.uint32(0)).sum(1, dtype=jnp.uint32)
    rows, (groups, responses) = len(batch.slots), batch.valid.shape
    by_row = total.reshape(rows, groups // rows, responses)
    return by_row.reshape(groups, responses, out_sharding=jax.typeof(batch.valid).sharding)


def uniform(contents: Array, count: int, *, seed: int, step: Array | int) -> Array:
    """Numbers in [0, 1) that depend on contents uint32[N], seed and step alone: float32[N, count]."""
    start = contents ^ _mixed(jnp.asarray(step, jnp.uint32) ^ _mixed(jnp.uint32(seed)))
    golden = jnp.uint32(0x9E3779B9)  # 2^32 over the golden ratio, which spreads neighbours
    bits = _mixed(_mixed(start)[:, None] + golden * jnp.arange(1, count + 1, dtype=jnp.uint32))
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def offsets(uniform: Array, lengths: Array, percentile: float) -> Array:
    """Places in responses of these lengths, counted from the end: int32[N, S], 1 to the length, 0 for a response without tokens.

    Args:
      uniform: float32[N, S]; the larger, the nearer to the end.
      lengths: float32[N]; scored tokens, the end token too. The published code leaves it out, and so never draws the first token.
      percentile: p; places lie in the first 1 - p of the response.
    """
    # 1 + floor(n (1 - (1 - p) u))
    return jnp.minimum(jnp.floor((1 - (1 - percentile) * uniform) * lengths[:, None] + 1), lengths[:, None]).astype(jnp.int32)


def cosines(left: Array, right: Array) -> Array:
    """The cosine of every left [N, S, D] with every right [N, S', D]: float32[N, S, S']; 0 for a state of zeros."""
    left, right = (x / jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), SMALLEST_NORM**2)) for x in (left, right))
    return jnp.einsum("nsd,ngd->nsg", left, right, precision=jax.lax.Precision.HIGHEST)


def shares(positive: Array, negative: Array, kept: tuple[Array, Array]) -> tuple[Array, Array]:
    """The mean of sigmoid(positive) and of sigmoid(-negative) over what counts of every group, float32[N] twice; see `contrast`."""
    return mean(jax.nn.sigmoid(positive), kept[0]), mean(jax.nn.sigmoid(-negative), kept[1])


def contrast(
    positive: Array, negative: Array, kept: tuple[Array, Array], *, reduction: str, statistics: Mapping[str, Array] | None = None
) -> Array:
    """The contrastive loss of every group, float32[N], from 2 log(1 + 1/e) = 0.627 to 2 log(1 + e) = 2.627; 2 log 2 at cosines of 0.

    Args:
      positive, negative: cosines float32[N, S, S'] of states of the better answer, and of it and the worse.
      kept: which of them count, bool of shapes that broadcast to theirs.
      reduction: "log_of_mean": -log mean sigmoid(positive) - log(1 - mean sigmoid(negative)), as published, with the mean over the states
        of one pair of answers, the microbatch of the published code as released; "log_of_batch_mean": the same with the mean over the
        whole batch, whatever its microbatches; "mean_of_log": the mean of the logarithms, which is greater.
      statistics: of "log_of_batch_mean", the means of both `shares` over the batch, by the names in SIDES; 0 where there is none.
    """
    if reduction == "mean_of_log":
        return mean(jax.nn.softplus(-positive), kept[0]) + mean(jax.nn.softplus(negative), kept[1])
    near, far = shares(positive, negative, kept)
    if reduction == "log_of_mean":
        return -jnp.log(near) - jnp.log(far)
    # The tangent of -log at the mean m of the batch: 1 - log m - x / m, whose mean is -log m and whose gradient is that of -log m.
    means = (jnp.where(statistics[name] > 0, statistics[name], 1.0) for name in SIDES)
    return sum(1 - jnp.log(m) - share / m for m, share in zip(means, (near, far), strict=True))


def mean(x: Array, kept: Array) -> Array:
    """The mean of x over what is kept of each group, of which there is always one: float32[N] from [N, S, S'] and bool."""
    kept = jnp.broadcast_to(kept, x.shape)
    return jnp.where(kept, x, 0.0).sum((1, 2)) / kept.sum((1, 2))


def statistics(positive: Array, negative: Array, kept: tuple[Array, Array], *, weight: Array) -> dict[str, tuple[Array, Array]]:
    """What `contrast` over the batch needs to know of it: the two `shares` and the weight of every group, float32[N]."""
    return {name: (share, weight) for name, share in zip(SIDES, shares(positive, negative, kept), strict=True)}


def check(*, weight: float, samples: int, pairs: str, goal: str, reduction: str, percentiles: tuple[float, float]) -> None:
    """Raises ValueError where an option of `goal_reward` is out of its range, or two do not go together."""
    if not weight >= 0 or samples < 1 or not all(0 <= p < 1 for p in percentiles):
        raise ValueError(f"objective 'goal_reward' got {weight=}, {samples=}, percentiles {percentiles}; >= 0, >= 1, and in [0, 1).")
    for name, value, choices in (("pairs", pairs, PAIRS), ("goal", goal, GOALS), ("reduction", reduction, REDUCTIONS)):
        if value not in choices:
            raise ValueError(f"objective 'goal_reward' got {name}={value!r}; there are {choices}.")
    if pairs != "all" and (goal == "average" or percentiles[0] < percentiles[1]):
        raise ValueError(
            f"objective 'goal_reward' got {pairs=} with {goal=}, percentiles {percentiles}: it needs goal='single' and sources that "
            "reach as far to the front as goals, source_percentile >= goal_percentile; or set pairs='all'."
        )


def _inside(batch: Batch) -> Array:
    """Whether token t of row r is scored in slot g * K + k: bool[R, T, G * K]."""
    return batch.slots[:, :, None] == jnp.arange(batch.valid.size // batch.slots.shape[0])


def _mixed(x: Array) -> Array:
    """The finaliser of MurmurHash3 (A. Appleby, public domain): every bit of uint32 depends on all others."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)

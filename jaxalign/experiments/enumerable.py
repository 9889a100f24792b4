"""Do the online methods reach the best policy? Worlds so small that every text can be enumerated and the optimum is known exactly.

The best policy for E[R] - beta KL(pi || ref) is ref exp(R / beta) / Z, of value beta log Z. The policy is a table of logits, a distribution
after each prefix; texts are drawn from it, rewarded, judged and trained on by the objectives, advantages and the step of this package.
"""

from collections.abc import Callable
import dataclasses
from functools import partial
import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxalign import objectives
from jaxalign.experiments import bandit
from jaxalign.experiments.parts import many_seeds, results
from jaxalign.experiments.parts.until import Stop, never, until
from jaxalign.objectives.families import kl_estimates
from jaxalign.rollout import advantages
from jaxalign.training import reference, step
from jaxalign.types import Array, Batch, Outputs

EPOCHS = 4  # steps on each rollout
LAMBDA = 0.95
POINTS = 20  # of each curve


@dataclasses.dataclass(frozen=True)
class World:
    """All texts of `length` letters; a prefix has a number, the empty one 0, then those of one letter, and so on."""

    reference: np.ndarray  # float[prefixes, letters]; logits
    reward: np.ndarray  # float[letters ** length]; of the texts in the order of `texts`
    beta: float

    @property
    def letters(self) -> int:
        return self.reference.shape[1]

    @property
    def length(self) -> int:
        return round(np.log(len(self.reward)) / np.log(self.letters))

    def texts(self) -> np.ndarray:
        """int[texts, length], the last letter changing first."""
        return np.array(list(itertools.product(range(self.letters), repeat=self.length)))

    def prefixes(self, texts: Array) -> Array:
        """The prefix before each letter: int32[..., length] of texts int32[..., length]."""
        number, first, found = jnp.zeros(texts.shape[:-1], jnp.int32), 0, []
        for t in range(self.length):
            found.append(first + number)
            number, first = number * self.letters + texts[..., t], first + self.letters**t
        return jnp.stack(found, -1)

    def distribution(self, logits: Array) -> Array:
        """Log-probability of every text under tables [S, prefixes, letters]: float[S, texts]."""
        texts = self.texts()
        return jax.nn.log_softmax(logits)[:, self.prefixes(jnp.asarray(texts)), texts].sum(-1)

    def optimum(self) -> tuple[np.ndarray, float]:
        """(the best distribution over texts, its value beta log Z)."""
        start = np.asarray(self.distribution(jnp.asarray(self.reference)[None])[0], np.float64)
        weights = np.exp(start + self.reward / self.beta)
        return weights / weights.sum(), float(self.beta * np.log(weights.sum()))

    def value(self, logits: Array) -> tuple[np.ndarray, np.ndarray]:
        """(E[R], KL to the reference) of tables [S, prefixes, letters]: float64[S] twice, exact."""
        log_p, log_q = (np.asarray(self.distribution(x), np.float64) for x in (logits, jnp.asarray(self.reference)[None]))
        return (np.exp(log_p) * self.reward).sum(1), (np.exp(log_p) * (log_p - log_q)).sum(1)


def worlds() -> dict[str, World]:
    """The bandit of `bandit`, and 64 random texts of three letters."""
    draw = np.random.default_rng(0)
    tables, rewards = draw.normal(size=(21, 4)), draw.normal(size=64)
    return {
        "a bandit of 4 actions": World(np.log(bandit.START)[None], bandit.REWARD, bandit.BETA),
        "64 texts": World(tables, rewards, 0.1),
    }


Feedback = Callable[[World, Batch, Array, Outputs, Outputs, Array], Batch]  # world, batch, rewards [N, K], policy, reference, key -> batch


@dataclasses.dataclass(frozen=True)
class Method:
    """An objective and what it learns from."""

    objective: str
    feedback: Feedback
    responses: int  # of each group
    options: dict = dataclasses.field(default_factory=dict)
    scaled: tuple[str, ...] = ()  # options that are the world's beta


def with_critic(world, batch, rewards, policy, constant, key):
    """PPO's: KL in the rewards of tokens, advantages against the critic, whitened over the rollout of each seed."""
    kl = kl_estimates.k1(policy.logps, constant.logps)
    shaped = advantages.token_rewards(rewards, kl, batch, beta=world.beta)
    found, returns = advantages.gae(shaped, policy.values, batch, gamma=1.0, lam=LAMBDA)
    white = jax.vmap(advantages.whiten)(found, batch.slots >= 0)
    return {"token_advantage": white, "token_return": returns, "rollout_values": policy.values}, batch


def in_group(world, batch, rewards, policy, constant, key, *, kl_in_reward=True, **how):
    """Of responses against their group, the KL a part of the reward or not."""
    kl = kl_estimates.k1(policy.logps, constant.logps)
    rewards = advantages.with_kl(rewards, kl, batch, beta=world.beta) if kl_in_reward else rewards
    return {"advantage": advantages.group_advantage(rewards, batch.valid, **how)}, batch


def as_scores(world, batch, rewards, policy, constant, key):
    """The rewards themselves."""
    return {}, batch.replace(reward=rewards)


def as_rewards(world, batch, rewards, policy, constant, key):
    """The rewards as a column."""
    return {"rollout_reward": rewards}, batch


def as_pairs(world, batch, rewards, policy, constant, key):
    """Two texts of a group by a Bradley-Terry judge: the first is preferred with probability sigmoid(R_1 - R_2), else they swap slots."""
    kept = jax.random.bernoulli(key, jax.nn.sigmoid(rewards[:, 0] - rewards[:, 1]))
    # a pair stays in its slots; where the second is preferred the slots are renamed
    swapped = jnp.where(kept, 0, 1).reshape(len(batch.slots), -1).repeat(2 * world.length, 1)
    return {}, batch.replace(slots=batch.slots ^ swapped, paired=jnp.ones_like(batch.paired))


METHODS = {
    "PPO": Method("ppo", with_critic, 1),
    "GRPO, KL in the reward": Method("grpo", in_group, 8),
    "RLOO, KL in the reward": Method("rloo", partial(in_group, baseline="leave_one_out", scale="none"), 8),
    "UNA online, raw": Method("una_online", as_rewards, 1, {"form": "raw"}, ("beta",)),
    "UNA online, raw, learned offset": Method("una", as_scores, 1, {"loss": "raw", "offset": "value_head"}, ("beta",)),
    "online DPO": Method("dpo", as_pairs, 2, {}, ("beta",)),
    "GRPO, k2 in the loss": Method("grpo", partial(in_group, scale="none", kl_in_reward=False), 8, {"kl": "k2"}, ("beta",)),
    "GRPO, k3 in the loss": Method("grpo", partial(in_group, scale="none", kl_in_reward=False), 8, {"kl": "k3"}, ("beta",)),
}


def run(
    workdir: Path,
    stop: Stop = never,
    *,
    seeds: int = 5,
    rollouts: int = 200,
    texts: int = 256,
    learning_rate: float = 0.05,
    first_seed: int = 0,
) -> dict:
    """world -> {"optimum", method -> {"share": of the best gain, by seed, "reward", "kl", "curve"}}; written into workdir too.

    The share is (J - J of the reference) / (J of the optimum - J of the reference) with J = E[R] - beta KL, exact.

    Args:
      seeds: trained at once, each with draws of its own.
      rollouts: of each method, EPOCHS steps on each.
      texts: of a rollout.
      learning_rate: of Adam, falling to 0 by a cosine.
      first_seed: of the draws.

    Raises:
      ValueError: texts do not split into the groups of a method.
    """
    whole = math.lcm(*(method.responses for method in METHODS.values()))
    if texts < whole or texts % whole:
        raise ValueError(f"experiment.texts={texts} does not split into groups of {whole}, the largest of a method; choose a multiple.")
    found, tables, length = {}, {}, {"seeds": seeds, "rollouts": rollouts, "texts": texts}
    with many_seeds.one_device():
        for title, world in worlds().items():
            start, best = float(world.value(jnp.asarray(world.reference)[None])[0][0]), world.optimum()[1]
            found[title] = {"start": start, "optimum": best, "beta": world.beta}
            for name, method in until(stop, METHODS.items()):
                curve = train(world, method, **length, learning_rate=learning_rate, first_seed=first_seed)
                found[title][name] = _summary(curve, world.beta, start, best)
            rows = [[name, *_cells(one)] for name, one in found[title].items() if name in METHODS]
            columns = ["method", "share of the best gain, mean", "least", "reward", "KL"]
            tables[f"{title}, beta {world.beta}: from {start:.4f} to at best {best:.4f}"] = columns, rows
    panels = [(title, "rollouts", "share of the best gain", partial(_draw, values)) for title, values in found.items()]
    results.write(Path(workdir), title=f"Known optima, {seeds} seeds", tables=tables, results=found, panels=panels)
    return found


def train(
    world: World, method: Method, *, seeds: int, rollouts: int, texts: int, learning_rate: float, first_seed: int
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """rollouts done -> (E[R], KL) of every seed, float64[S] twice."""
    bound = objectives.bind(method.objective, **method.options, **dict.fromkeys(method.scaled, world.beta))
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, rollouts * EPOCHS), eps=many_seeds.EPS / seeds)
    table = jnp.broadcast_to(jnp.asarray(world.reference, jnp.float32), (seeds, *world.reference.shape))
    params = {"logits": table, "values": jnp.zeros(table.shape[:2])}
    look, rule = partial(forward, world), reference.RULES["frozen"]
    train_step = step.make_train_step(look, bound, rule.bind(), optimizer, optax.constant_schedule(0.0))
    state = step.init_state(params, optimizer, rule=rule, seed=0, statistics=bound.statistics_names)
    draw = jax.jit(partial(rollout, world, method, seeds=seeds, texts=texts))
    key, curve = jax.random.key(first_seed), {}
    for done in range(rollouts + 1):
        if done % max(1, rollouts // POINTS) == 0 or done == rollouts:
            curve[done] = world.value(state.trainable["logits"])
        if done == rollouts:
            return curve
        data = draw(state.trainable, state.reference, jax.random.fold_in(key, done))
        for _ in range(EPOCHS):
            state, _ = train_step(state, data)
    return curve


def rollout(world: World, method: Method, params: dict, constant: dict, key: Array, *, seeds: int, texts: int) -> Batch:
    """A batch of texts that the tables draw: row s is seed s's, with `texts` responses in groups."""
    letters_key, judge_key = jax.random.split(key)
    drawn = jnp.zeros((seeds, texts, world.length), jnp.int32)
    for t in range(world.length):
        logits = _rows_of(params["logits"], world.prefixes(drawn)[..., t])
        drawn = drawn.at[..., t].set(jax.random.categorical(jax.random.fold_in(letters_key, t), logits))
    batch = _batch(drawn, method.responses)
    numbers = jnp.sum(drawn * world.letters ** jnp.arange(world.length)[::-1], -1)
    rewards = jnp.asarray(world.reward, jnp.float32)[numbers].reshape(batch.valid.shape)
    policy, other = forward(world, params, batch, jnp.int32(0)), forward(world, constant, batch, jnp.int32(0))
    columns, batch = method.feedback(world, batch, rewards, policy, other, judge_key)
    return batch.replace(columns={"rollout_logps": policy.logps, **columns})


def forward(world: World, params: dict, batch: Batch, step: Array) -> Outputs:
    """Log-probs of the letters, and the values of their prefixes, of which that of the empty one is the prompt's."""
    texts = batch.tokens.reshape(len(batch.tokens), -1, world.length)
    prefixes = world.prefixes(texts)
    logps = jnp.sum(jax.nn.log_softmax(_rows_of(params["logits"], prefixes)) * jax.nn.one_hot(texts, world.letters), -1)
    values = _rows_of(params["values"][..., None], prefixes)[..., 0]
    of_prompts = jnp.repeat(params["values"][:, 0], batch.valid.size // len(texts)).reshape(batch.valid.shape)
    return Outputs(logps.reshape(batch.tokens.shape), prompt_values=of_prompts, values=values.reshape(batch.tokens.shape), step=step)


def _rows_of(tables, prefixes):
    """Rows of tables [S, prefixes, X] by number [S, ...]: [S, ..., X]."""
    return jnp.einsum("s...p,spx->s...x", jax.nn.one_hot(prefixes, tables.shape[1]), tables)


def _batch(texts, responses):
    seeds, count, length = texts.shape
    slots = jnp.broadcast_to(jnp.repeat(jnp.arange(count, dtype=jnp.int32), length), (seeds, count * length))
    positions = jnp.broadcast_to(jnp.tile(jnp.arange(length, dtype=jnp.int32), count), slots.shape)
    valid = jnp.ones((seeds * count // responses, responses), bool)
    paired = jnp.zeros(len(valid), bool)
    tokens = texts.reshape(slots.shape)
    return Batch(tokens, positions, slots + 1, jnp.zeros_like(slots), slots, valid.astype(jnp.float32), paired, valid)


def _summary(curve: dict, beta: float, start: float, best: float) -> dict:
    shares = {done: (reward - beta * kl - start) / (best - start) for done, (reward, kl) in curve.items()}
    last = max(curve)
    reward, kl = (float(x.mean()) for x in curve[last])
    means = {"rollouts": list(shares), "share": [float(share.mean()) for share in shares.values()]}
    return {"share": shares[last].tolist(), "reward": reward, "kl": kl, "curve": means}


def _cells(one: dict) -> list[str]:
    return [f"{np.mean(one['share']):.4f}", f"{min(one['share']):.4f}", f"{one['reward']:.4f}", f"{one['kl']:.4f}"]


def _draw(values: dict, axes) -> None:
    for name in METHODS:
        axes.plot(values[name]["curve"]["rollouts"], values[name]["curve"]["share"], label=name)
    axes.axhline(1.0, color="black", linestyle="--", linewidth=0.8)

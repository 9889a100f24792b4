"""Frozen Lake with one optimal and one worse way: how near SFT, IFT, ORPO and DPO bring a policy to the optimal one (arXiv 2405.11870).

The paper gives neither map nor sizes nor numbers; these are our own. A policy is one-hot state -> tanh 64 -> 4 actions. The score is the
mean squared difference, over the states one moves on from and their actions, to the same network fitted to the optimal policy.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import objectives
from jaxalign.experiments.parts import many_seeds, results
from jaxalign.experiments.parts.grids import GRIDS, Grid
from jaxalign.experiments.parts.until import Stop, never, until
from jaxalign.training import forward as forwards
from jaxalign.types import Batch, Outputs

HIDDEN = 64
FIT = {"steps": 2000, "learning_rate": 1e-2}
METHODS = {  # name -> (objective, its options, mixing)
    "SFT": ("sft", {}, 0.0),
    "IFT": ("ift", {}, 0.2),
    "IFT, constant weights": ("ift", {"mode": "stopgrad_weights"}, 0.2),
    "mixing only": ("ift", {"gamma": 0.0}, 0.2),
    "weights only": ("ift", {}, 0.0),
    "ORPO": ("orpo", {"lam": 0.25}, 0.0),
    "DPO": ("dpo", {"beta": 0.1}, 0.0),
}
STARTS = {  # heading -> (map, whether the start is first fitted to the worse way)
    "standard map": ("standard", False),
    "standard map, start prefers the worse way": ("standard", True),
    "open map": ("open", False),
    "two corridors": ("corridors", False),
}


def run(
    workdir: Path, stop: Stop = never, *, seeds: int = 50, steps: int = 1000, learning_rate: float = 3e-3, first_seed: int = 0
) -> dict:
    """heading -> method -> {"scores": {step: mean}, "difference": to SFT, "standard_error": its own}; written into workdir too.

    Args:
      seeds: random starts, trained at once.
      steps: of RMSprop on the whole data.
      learning_rate: of RMSprop.
      first_seed: of the random starts.
    """
    at = sorted({0, *(round(steps * share) for share in (0.03, 0.1, 0.3, 1.0))})
    found = {}
    with many_seeds.one_device():
        for heading, (name, fitted) in until(stop, STARTS.items()):
            found[heading] = _compare(GRIDS[name], seeds, at, learning_rate, first_seed, fitted)
    summary = {heading: {method: _summary(scores, every["SFT"]) for method, scores in every.items()} for heading, every in found.items()}
    columns = ["method", *(f"step {step}" for step in at), "to SFT (se)"]
    tables = {heading: (columns, [_cells(method, values) for method, values in every.items()]) for heading, every in summary.items()}
    title = f"Frozen Lake: squared distance to the optimal policy, mean of {seeds} seeds"
    panels = [(heading, "step", "squared distance", partial(_draw, every)) for heading, every in summary.items()]
    results.write(Path(workdir), title=title, tables=tables, results=summary, panels=panels)
    return summary


def start(seeds: int, states: int, first_seed: int) -> dict:
    """Random parameters of S networks."""
    keys = jax.random.split(jax.random.key(first_seed), 2)
    return {
        "first": jax.random.normal(keys[0], (seeds, states, HIDDEN)) / states**0.5,
        "first_bias": jnp.zeros((seeds, HIDDEN)),
        "second": jax.random.normal(keys[1], (seeds, HIDDEN, 4)) / HIDDEN**0.5,
        "second_bias": jnp.zeros((seeds, 4)),
    }


def log_policy(params: dict, x: jax.Array) -> jax.Array:
    """Log-probs of the actions, [S, T, 4], for inputs [S, T, states] that need not be one-hot."""
    hidden = jnp.tanh(jnp.einsum("stn,snh->sth", x, params["first"]) + params["first_bias"][:, None])
    return jax.nn.log_softmax(jnp.einsum("sth,sha->sta", hidden, params["second"]) + params["second_bias"][:, None])


def forward(params: dict, batch: Batch, step: jax.Array, *, states: np.ndarray, next_states: np.ndarray, mixing: float) -> Outputs:
    """Log-probs of the actions in batch.tokens, taken in `states`, int[T].

    With mixing, the state after the first is mixed with the one where the greedy action would have led: IFT's temporal residual.
    """
    count = len(next_states)
    gold = jnp.broadcast_to(jnp.asarray(states), batch.tokens.shape)

    def embed(ids):
        return jax.nn.one_hot(ids, count)

    greedy = led = None
    if mixing:
        greedy = jax.lax.stop_gradient(log_policy(params, embed(gold))).argmax(-1)
        led = jnp.pad(jnp.asarray(next_states)[gold, greedy][:, :-1], ((0, 0), (1, 0)))
        led = jnp.where(batch.positions > 0, led, gold)
    x = forwards.mix(embed, gold, led, jnp.asarray(mixing), train_embeddings=True)
    logps = jnp.sum(log_policy(params, x) * jax.nn.one_hot(batch.tokens, 4), axis=-1)
    return Outputs(logps, greedy=greedy)


def _compare(grid: Grid, seeds: int, at: list[int], learning_rate: float, first_seed: int, fitted: bool) -> dict:
    params = start(seeds, len(grid.letters), first_seed)
    target = _fit(grid, params, seeds)
    everywhere = jnp.broadcast_to(jax.nn.one_hot(grid.inner(), len(grid.letters)), (seeds, len(grid.inner()), len(grid.letters)))
    wanted = np.exp(log_policy(target, everywhere))

    def measure(params):
        return np.mean((np.exp(log_policy(params, everywhere)) - wanted) ** 2, axis=(1, 2))

    optimal, other = grid.path(grid.optimal), grid.path(grid.other)
    if fitted:
        data = many_seeds.batch([[other[1]]], seeds=seeds, paired=False)
        optimizer = many_seeds.rmsprop(seeds, learning_rate=learning_rate)
        params = many_seeds.final(_look(grid, [other], 0.0), params, data, objectives.bind("sft"), optimizer, steps=100)
    found = {}
    for method, (name, hparams, mixing) in METHODS.items():
        objective = objectives.bind(name, **hparams)
        ways = [optimal, other] if "paired" in objective.reads else [optimal]
        found[method] = many_seeds.train(
            _look(grid, ways, mixing),
            params,
            many_seeds.batch([[actions for _, actions in ways]], seeds=seeds, paired="paired" in objective.reads),
            objective,
            many_seeds.rmsprop(seeds, learning_rate=learning_rate),
            measure=measure,
            at=at,
            rule="frozen" if "reference" in objective.reads else "none",
        )
    return found


def _fit(grid: Grid, params: dict, seeds: int) -> dict:
    """The network fitted to the optimal policy: SFT on every state twice, so that two equally good actions have half the weight each."""
    best = grid.optimal_policy()
    actions = [np.flatnonzero(best[state]).repeat(2)[:: best[state].astype(bool).sum()] for state in grid.inner()]
    states = [int(state) for state in grid.inner() for _ in range(2)]
    data = many_seeds.batch([[np.concatenate(actions)]], seeds=seeds, paired=False)
    optimizer = many_seeds.rmsprop(seeds, learning_rate=FIT["learning_rate"])
    look = _look(grid, [(states, None)], 0.0)
    return many_seeds.final(look, params, data, objectives.bind("sft"), optimizer, steps=FIT["steps"])


def _look(grid: Grid, ways: list, mixing: float):
    states = np.concatenate([states for states, _ in ways])
    return partial(forward, states=states, next_states=grid.next_states(), mixing=mixing)


def _summary(scores: dict[int, np.ndarray], sft: dict[int, np.ndarray]) -> dict:
    last = max(scores)
    difference = scores[last] - sft[last]
    return {
        "scores": {step: float(values.mean()) for step, values in scores.items()},
        "difference": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / len(difference) ** 0.5) if len(difference) > 1 else 0.0,
    }


def _cells(method: str, values: dict) -> list[str]:
    difference = f"{values['difference']:+.4f} ({values['standard_error']:.4f})"
    return [method, *(f"{score:.4f}" for score in values["scores"].values()), difference]


def _draw(every: dict, axes) -> None:
    for method, values in every.items():
        axes.plot(list(values["scores"]), list(values["scores"].values()), marker="o", markersize=3, label=method)
    axes.set_xscale("symlog", linthresh=10)

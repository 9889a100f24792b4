"""Where UNA and IPO end on a bandit whose optimum is known in closed form (UNA: arXiv 2408.15339; IPO: arXiv 2310.12036).

The RLHF optimum of reward r is ref exp(r / beta) / Z. With f(x) + c = 0, UNA takes beta log Z for 0: on answers that the policy draws
itself that costs nothing, on a fixed set of answers it ends elsewhere, unless the offset is learned. The policy is a softmax over four
actions; expectations are exact and gradients not noisy.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import objectives
from jaxalign.experiments.parts import many_seeds, results
from jaxalign.experiments.parts.until import Stop, never, until
from jaxalign.training import reference, step
from jaxalign.types import Batch, Outputs

START = np.array([0.1, 0.4, 0.2, 0.3])  # of the policy, and so of the reference
REWARD = np.array([1.0, -0.5, 0.3, 2.0])
BETA = 0.5
METHODS = {  # name -> (on-policy, options of una, learning rate)
    "on-policy, raw, offset 0": (True, {"loss": "raw"}, 2.0),
    "on-policy, raw, offset -3": (True, {"loss": "raw", "offset": "const", "constant": -3.0}, 0.8),
    "fixed answers, raw, offset 0": (False, {"loss": "raw"}, 1.0),
    "fixed answers, raw, learned offset": (False, {"loss": "raw", "offset": "value_head"}, 0.4),
    "fixed answers, squashed, offset 0": (False, {"loss": "mse"}, 10.0),
    "fixed answers, squashed, learned offset": (False, {"loss": "mse", "offset": "value_head"}, 5.0),
}
IPO_TAU = (0.2, 0.5, 1.0, 2.0)
IPO_STEPS = 200  # its loss is a parabola


def run(workdir: Path, stop: Stop = never, *, steps: int = 4000, points: int = 8) -> dict:
    """method -> {"policy", "offset", "kl": of the optimum to it}, and "optimum", "ipo", "gradient_deviation"; written into workdir too.

    Args:
      steps: of gradient descent.
      points: random policies at which the gradient of on-policy raw UNA is compared with -2 beta times that of the RLHF objective.
    """
    optimum, log_normalizer = closed_form()
    with many_seeds.one_device():
        ends = {name: _una(steps, *choice) for name, choice in until(stop, METHODS.items())}
        ipo = {tau: _ipo(tau, min(steps, IPO_STEPS)) for tau in until(stop, IPO_TAU)}
        deviation = max(gradient_deviation(seed) for seed in range(points))
    distances = {name: max(0.0, float(np.sum(optimum * np.log(optimum / p)))) for name, (p, _) in ends.items()}
    found = {name: {"policy": p.tolist(), "offset": c, "kl": distances[name]} for name, (p, c) in ends.items()}
    rows = [[name, *(f"{x:.6f}" for x in end["policy"]), f"{end['offset']:.6f}", f"{end['kl']:.6f}"] for name, end in found.items()]
    rows.append(["optimum", *(f"{x:.6f}" for x in optimum), f"{log_normalizer:.6f}", "0"])
    tables = {
        "UNA": (["training", "action 1", "2", "3", "4", "offset", "KL of the optimum to it"], rows),
        "IPO, two actions": (
            ["tau", "probability of the preferred action", "closed form"],
            [[f"{tau}", f"{p:.6f}", f"{1 / (1 + np.exp(-1 / (2 * tau))):.6f}"] for tau, p in ipo.items()],
        ),
        "gradient of on-policy raw UNA against -2 beta times that of RLHF": (["largest deviation, relative"], [[f"{deviation:.1e}"]]),
    }
    extra = {"optimum": optimum.tolist(), "ipo": {str(tau): p for tau, p in ipo.items()}, "gradient_deviation": deviation}
    panels = [("where training ends", "action", "probability", partial(_draw, found, optimum))]
    results.write(Path(workdir), title="Fixed points on a bandit", tables=tables, results=found | extra, panels=panels)
    return found | extra


def closed_form() -> tuple[np.ndarray, float]:
    """(optimal policy, beta log Z)."""
    weights = START * np.exp(REWARD / BETA)
    return weights / weights.sum(), float(BETA * np.log(weights.sum()))


def forward(params: dict, batch: Batch, step: jax.Array, *, squashed: bool) -> Outputs:
    """Log-probs of actions, one token each; the offset is in the place of the value head: the score at log-ratio 0 where squashed."""
    logps = jnp.sum(jax.nn.log_softmax(params["logits"])[:, None] * jax.nn.one_hot(batch.tokens, params["logits"].shape[1]), axis=-1)
    offset = jax.nn.sigmoid(params["offset"]) if squashed else params["offset"]
    return Outputs(logps, prompt_values=jnp.broadcast_to(offset, batch.valid.shape))


def on_policy(bound: objectives.Objective) -> objectives.Objective:
    """The same with every action weighed by how often the policy takes it: the expectation over its own answers, one token each."""

    def terms(policy, reference, batch, statistics):
        found = bound.terms(policy, reference, batch, statistics)
        return found.replace(weight=jax.lax.stop_gradient(jnp.exp(policy.logps)).reshape(found.weight.shape))

    return dataclasses.replace(bound, terms=terms)


def gradient_deviation(seed: int) -> float:
    """Largest difference of the two gradients at a random policy and reference, relative to the largest entry."""
    draw = np.random.default_rng(seed)
    logits, other = (jnp.asarray(draw.normal(size=(1, 4)), jnp.float32) for _ in range(2))
    optimizer = many_seeds.gradient_descent(1, learning_rate=1.0)
    state = step.init_state({"logits": jnp.copy(logits), "offset": jnp.zeros((1, 1))}, optimizer, rule=reference.RULES["frozen"], seed=0)
    state = state.replace(reference={"logits": jnp.copy(other), "offset": jnp.zeros((1, 1))})
    objective = on_policy(objectives.bind("una", loss="raw", beta=BETA))
    look = partial(forward, squashed=False)
    run_step = step.make_train_step(look, objective, reference.frozen, optimizer, lambda _: 0.0)
    state, _ = run_step(state, _actions(REWARD))

    def rlhf(logits):
        policy, constant = jax.nn.log_softmax(logits), jax.nn.log_softmax(other)
        # J = E_pi[r] - beta KL(pi || ref)
        return jnp.sum(jnp.exp(policy) * (REWARD - BETA * (policy - constant)))

    wanted = -2 * BETA * jax.grad(rlhf)(logits)
    return float(jnp.abs(state.opt_state[0].trace["logits"] - wanted).max() / jnp.abs(wanted).max())


def _actions(reward: np.ndarray) -> Batch:
    return many_seeds.batch([[[action]] for action in range(len(reward))], seeds=1, paired=False, reward=np.asarray(reward)[:, None])


def _una(steps: int, on: bool, options: dict, learning_rate: float) -> tuple[np.ndarray, float]:
    """(policy, offset) where training ends."""
    squashed = options["loss"] != "raw"
    params = {"logits": jnp.asarray(np.log(START)[None], jnp.float32), "offset": jnp.zeros((1, 1))}
    objective = objectives.bind("una", beta=BETA, **options)
    end = many_seeds.train(
        partial(forward, squashed=squashed),
        params,
        _actions(1 / (1 + np.exp(-REWARD)) if squashed else REWARD),
        on_policy(objective) if on else objective,
        many_seeds.gradient_descent(1, learning_rate=learning_rate),
        measure=lambda x: (np.array(jax.nn.softmax(x["logits"][0])), float(x["offset"][0, 0])),
        at=[steps],
        rule="frozen",
    )[steps]
    return end[0].astype(np.float64), options.get("constant", end[1])


def _ipo(tau: float, steps: int) -> float:
    """Probability of the preferred of two actions where training ends; the reference takes both alike."""
    data = many_seeds.batch([[[0], [1]]], seeds=1, paired=True)
    params = {"logits": jnp.zeros((1, 2)), "offset": jnp.zeros((1, 1))}
    optimizer = many_seeds.gradient_descent(1, learning_rate=0.1)
    return many_seeds.train(
        partial(forward, squashed=False),
        params,
        data,
        objectives.bind("ipo", tau=tau),
        optimizer,
        measure=lambda x: float(jax.nn.softmax(x["logits"][0])[0]),
        at=[steps],
        rule="frozen",
    )[steps]


def _draw(found: dict, optimum: np.ndarray, axes) -> None:
    for name, end in found.items():
        axes.plot([1, 2, 3, 4], end["policy"], marker="o", markersize=4, label=name)
    axes.plot([1, 2, 3, 4], optimum, color="black", linestyle="--", label="optimum")

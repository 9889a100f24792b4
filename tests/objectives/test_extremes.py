"""Every objective with every option is finite, with its gradients and metrics, at the ends of what log-probs, rewards and batches can be.

Where an objective is a formula of whole responses, its values there are those of numpy in float64.
"""

import functools
import itertools
import os

import jax
import jax.numpy as jnp
from losses import batch
import numpy as np
import pytest
import toys

from jaxalign import objectives
from jaxalign.hparams import hparams_of
from jaxalign.objectives import ift, una
from jaxalign.objectives.families.responses import KERNELS
from jaxalign.training import step
from jaxalign.types import Features, Outputs

SWEEP = bool(os.environ.get("SWEEP"))  # the whole products of options, where a part will do
FAR = -1e4  # nats of a response; a diverged model is there
AT = np.int32(7)  # the step
SIDES = list(itertools.product((0.0, -3.0, FAR), repeat=2))
REFERENCES = (None, (0.0, FAR), (FAR, 0.0), (FAR, FAR))  # None: the policy's own
REWARDS = ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1.0, 1.0))
LENGTHS = ((1, 1), (3, 1))
GROUPS = list(itertools.product(SIDES, REFERENCES, REWARDS, LENGTHS))

BETAS = [{"beta": beta} for beta in (1e-4, 1.0, 10.0)]
SMOOTHED = [{"label_smoothing": eps} for eps in (0.0, 0.499)]
REWARDS = [
    *SMOOTHED, {"margin": 0.0}, {"margin": 100.0}, {"centering": 0.01}, {"margin_column": "reward"}, {"margin_column": "margin"}
]  # fmt: skip
CLIPS = [{"clip": clip} for clip in (0.0, 1.0, 1e6)]
ALPHAS = [{"alpha": alpha} for alpha in (0.0, 100.0)]
GAMMAS = [{"gamma": gamma} for gamma in (0.0, 100.0)]
KL_BETAS = [{"kl_beta": beta} for beta in (0.0, 10.0)]
THRESHOLDS = [{"threshold": at} for at in (0.0, 1.0)]
SURROGATES = [{"clip_low": 1.0}, {"clip_high": 1e6}]
IN_LOSS = [{"dual_clip": 3.0}, {"beta": 10.0}, {"beta": 1.0, "kl": "k2"}, {"reduction": "token_mean"}, {"reduction": "response_mean"}]
OPTIONS = {  # beside the defaults; what an objective shares with others first
    "alol": CLIPS,
    "alol_kl": KL_BETAS,
    "alol_kl_published": KL_BETAS,
    "alol_seq": CLIPS,
    "bco": [*BETAS, *THRESHOLDS, {"decay": 0.0}, {"decay": 0.999999}],
    "cdpo": [*BETAS, *SMOOTHED],
    "cpo": [*BETAS, *ALPHAS],
    "cpo_simpo": [*BETAS, *ALPHAS, *GAMMAS],
    "discopop": [*BETAS, {"tau": 1e-4}, {"tau": 1.0}, {"tau": 1e-4, "beta": 10.0}],
    "distill": [
        {"divergence": "reverse", "loss_temperature": 0.1}, {"divergence": "jsd", "beta": 0.999, "rescale": True, "reduction": "seq_mean"},
        {"divergence": "jsd", "top_k": 2}, {"divergence": "reverse", "top_k": 7},
    ],
    "distill_sampled": [{"gamma": 1.0}, {"gamma": 0.5}],
    "dpo_nll": [*BETAS, *ALPHAS],
    "dpop": [*BETAS, {"lam": 0.0}, {"lam": 1e4}],
    "exo": [*BETAS, {"label_smoothing": 1e-9}, {"label_smoothing": 0.499}],
    "goal_reward": [
        {"weight": 100.0}, {"samples": 1, "pairs": "diagonal"}, {"pairs": "causal", "source_percentile": 0.9}, {"goal": "average"},
        {"reduction": "mean_of_log"}, {"reduction": "log_of_batch_mean"}, {"source_percentile": 0.5, "goal_percentile": 0.5, "seed": 1},
    ],
    "gold": [{"floor": 0.0}, {"floor": 1.0}],
    "grpo": [
        *SURROGATES, *IN_LOSS, {"reduction": "constant", "max_tokens": 3}, {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}
    ],
    "ift": [
        {"gamma": gamma, "mode": mode, "norm": norm}
        for gamma in ((0.0, 0.5, 1.0) if SWEEP else (0.5,))
        for mode, norm in (*itertools.product(ift.MODES[:2], ift.NORMS), *((mode, "l1") for mode in ift.MODES[2:]))
    ] + [{"gamma": gamma} for gamma in (0.0, 1.0)],
    "ipo": [{"tau": tau, "length_normalised": normalised} for tau in (1e-4, 10.0) for normalised in (False, True)],
    "kto": [*BETAS, *THRESHOLDS, {"desirable_weight": 1e-6}, {"undesirable_weight": 100.0}],
    "modpo": [*BETAS, {"weights": (1e-3, 1.0)}, {"weights": (1.0,), "margins": ()}],
    "modpo_hinge": [*BETAS, {"weights": (1e-3, 1.0)}, {"weights": (1.0,), "margins": ()}],
    "orpo": [{"lam": 1e-6}, {"lam": 100.0}],
    "ppo": [
        *SURROGATES, *IN_LOSS, {"value_clip": 0.0}, {"value_coef": 10.0}, {"entropy_coef": 1.0},
        {"target_kl": 1e-6, "kl_rate": 1.0, "beta": 1.0}, {"target_kl": 1e6}
    ],
    "pro": [{"sft_weight": 0.0}, {"sft_weight": 100.0}],
    "r_dpo": [*BETAS, *ALPHAS],
    "rdpo": [*BETAS, *SMOOTHED],
    "feature_reward": REWARDS,
    "reward": REWARDS,
    "reinforce": [{"baseline": "none"}],
    "rlol": CLIPS,
    "rloo": SURROGATES,
    "simpo": [*BETAS, *GAMMAS],
    "una": [
        {"loss": loss, "offset": offset, **more}
        for loss, (offset, more) in itertools.product(
            KERNELS, [*((o, {}) for o in una.OFFSETS), ("const", {"constant": -1e4}), ("ema", {"decay": 0.0}), ("zero", {"beta": 10.0})]
        )
        if SWEEP or loss == "raw" or offset in ("zero", "ema")
    ],
    "una_online": [
        *BETAS, {"form": "raw"}, {"denominator": "rollout"}, {"form": "raw", "denominator": "rollout", "beta": 10.0}
    ],
    "value": [{"rewards": ("reward", "advantage")}],
}
CASES = [
    (name, hparams)
    for name in toys.OBJECTIVES
    for hparams in [{}, *OPTIONS.get(name, BETAS if "beta" in hparams_of(objectives.named(name)[0]) else [])]
]


def named(case) -> str:
    name, hparams = case
    return "-".join([name, *(f"{key}={value}" for key, value in hparams.items())])


@functools.cache
def extremes(reads: tuple[str, ...]):
    """(policy, reference, batch) in which every group of GROUPS is one row; a third response is of another prompt, or the worst.

    All of a response's log-prob is on its last token, at hidden states and a head whose logits are as far apart.
    """
    sides, references, rewards, lengths = zip(*GROUPS, strict=True)
    third = np.array([FAR if n % 3 else 0.0 for n in range(len(GROUPS))])
    logps = np.column_stack([np.array(sides), third])
    reference = np.column_stack([[own if other is None else other for own, other in zip(sides, references, strict=True)], third[::-1]])
    lengths, reward = np.column_stack([np.array(lengths), third * 0 + 1]).astype(int), np.column_stack([np.array(rewards), third * 0])
    valid = np.column_stack([np.ones((len(GROUPS), 2), bool), np.full(len(GROUPS), "ranked" in reads)])
    paired = np.arange(len(GROUPS)) % 2 == 0 if "mixed" in reads else "paired" in reads
    of = batch(len(GROUPS), 3, lengths=lengths, reward=reward, paired=paired, valid=valid, mismatched=~valid)
    numbers = {"advantage": reward * 2e3 - 1e3, "margin": np.where(reward > 0, FAR, -FAR), "rollout_reward": reward * 2e3 - 1e3}
    numbers["first_visit"] = np.ones(reward.shape)
    of = of.replace(columns=of.columns | {name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()})
    random = np.random.default_rng(0)

    def at_last(values):
        wide = np.zeros((*lengths.shape, lengths.max()))
        np.put_along_axis(wide, lengths[:, :, None] - 1, values[:, :, None], axis=2)
        return wide.reshape(len(GROUPS), -1)

    signs = np.resize([1.0, 1.0, -1.0], of.tokens.shape)
    of_tokens = {"rollout_logps": at_last(reference)} | {name: 1e3 * signs for name in ("rollout_values", "token_advantage")}
    of_tokens["token_return"] = 1e3 * signs[:, ::-1]
    of = of.replace(columns=of.columns | {name: jnp.asarray(value, jnp.float32) for name, value in of_tokens.items()})

    def outputs(values):
        tokens = at_last(values)
        hidden, head = (1e2 * random.standard_normal((*shape, 4)) for shape in (tokens.shape, (7,)))
        prompt = np.tile(np.where(np.arange(len(GROUPS)) % 2, 1.0, 0.0)[:, None], (1, 3))
        arrays = (jnp.asarray(x, jnp.float32) for x in (tokens, hidden, head, prompt))
        rewards, of_critic = jnp.asarray(values, jnp.float32), jnp.asarray(1e3 * signs, jnp.float32)
        heads = {"features": Features(*[rewards[..., None]] * 2, ("feature",), (1,)), "values": of_critic}
        return Outputs(*arrays, rewards=rewards, **heads, vocab_size=7)

    return outputs(logps), outputs(reference), of


def one_valid(of, reads: tuple[str, ...]):
    """The batch with one judgement in it: a response, or where pairs or lists are judged a pair."""
    group = 0 if "paired" in reads or "ranked" in reads else 1
    alone = np.arange(3) < (2 if group == 0 else 1)
    valid = (np.arange(len(GROUPS)) == group)[:, None] & alone
    return of.replace(valid=jnp.asarray(valid))


@functools.lru_cache(maxsize=2)
def compiled(name, hparams):
    """The program of an objective: (policy, reference, batch) -> ((mean loss, terms), gradient with respect to the policy's outputs)."""
    bound = objectives.bind(name, **dict(hparams))

    def mean(policy, reference, of, known):
        terms = bound.terms(policy.replace(step=AT), reference, of, known)
        total = jnp.maximum(terms.weight.sum(), 1.0)
        return jnp.sum(jnp.where(terms.weight > 0, terms.loss, 0.0) * terms.weight) / total, terms

    def whole(policy, reference, of):
        sums = step._sums_of_statistics(bound, policy.replace(step=AT), reference, of)
        known = bound.carry({name: jnp.float32(0) for name in sums}, step._means(sums), jnp.int32(0))
        return jax.value_and_grad(mean, has_aux=True)(policy, reference, of, known)

    return jax.jit(whole)


def run(name, hparams, policy, reference, of):
    """(terms, mean loss and its gradient with respect to the policy's outputs), on a mesh of one device."""
    with jax.set_mesh(toys.mesh()):
        (value, terms), gradient = compiled(name, tuple(hparams.items()))(policy, reference, of)
        return terms, value, gradient


@pytest.mark.parametrize("case", [case if not case[1] else pytest.param(case, marks=pytest.mark.slow) for case in CASES], ids=named)
def test_loss_gradient_and_metrics_are_finite_at_the_extremes(case):
    name, hparams = case
    reads = objectives.bind(name, **hparams).reads
    policy, reference, of = extremes(reads)
    for rows in (of, one_valid(of, reads)):
        terms, value, gradient = run(name, hparams, policy, reference, rows)
        assert float(terms.weight.sum()) > 0
        assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        assert np.isfinite(np.where(terms.weight > 0, terms.loss, 0)).all()
        broken = {key for key, (numbers, weight) in terms.metrics.items() if not np.isfinite(np.where(weight > 0, numbers, 0)).all()}
        assert not broken


def test_every_option_of_every_objective_is_among_the_cases():
    tried = {(name, option) for name, hparams in CASES for option in hparams}
    assert {(name, option) for name in toys.OBJECTIVES for option in hparams_of(objectives.named(name)[0])} == tried


def softplus(x):
    return np.logaddexp(0.0, x)


def sigmoid(x):
    return np.exp(-softplus(-x))


def log1mexp(x):
    return np.log(-np.expm1(np.minimum(x, -1e-6)))


FORMULAS = {  # of log-probs and log-ratios [N, 2], lengths [N, 2], in float64 with the default options
    "dpo": lambda logps, rho, lengths: softplus(-0.1 * (rho[:, 0] - rho[:, 1])),
    "cdpo": lambda logps, rho, lengths: 0.9 * softplus(-0.1 * (rho[:, 0] - rho[:, 1])) + 0.1 * softplus(0.1 * (rho[:, 0] - rho[:, 1])),
    "hinge": lambda logps, rho, lengths: np.maximum(0, 1 - 0.1 * (rho[:, 0] - rho[:, 1])),
    "ipo": lambda logps, rho, lengths: ((rho / lengths)[:, 0] - (rho / lengths)[:, 1] - 5) ** 2,
    "simpo": lambda logps, rho, lengths: softplus(1 - 2 * ((logps / lengths)[:, 0] - (logps / lengths)[:, 1])),
    "sppo": lambda logps, rho, lengths: (rho[:, 0] - 500) ** 2 + (rho[:, 1] + 500) ** 2,
    "nca": lambda logps, rho, lengths: softplus(-0.01 * rho[:, 0]) + softplus(0.01 * rho).sum(1) / 2,
    "dpop": lambda logps, rho, lengths: softplus(-0.1 * (rho[:, 0] - rho[:, 1] - 50 * np.maximum(0, -rho[:, 0]))),
    "exo": lambda logps, rho, lengths: sum(
        sigmoid(m) * (-softplus(-m) - np.log(q)) for m, q in ((0.1 * (rho[:, 0] - rho[:, 1]), 0.999), (0.1 * (rho[:, 1] - rho[:, 0]), 1e-3))
    ),
    "orpo": lambda logps, rho, lengths: (
        -(logps / lengths)[:, 0]
        + 0.1 * softplus(-((logps / lengths) - log1mexp(logps / lengths))[:, 0] + ((logps / lengths) - log1mexp(logps / lengths))[:, 1])
    ),
    "discopop": lambda logps, rho, lengths: (
        sigmoid(-(rho[:, 0] - rho[:, 1])) * softplus(-0.05 * (rho[:, 0] - rho[:, 1]))
        + np.exp(-softplus(-(rho[:, 0] - rho[:, 1])) - 0.05 * (rho[:, 0] - rho[:, 1]))
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_values_at_the_extremes_are_those_of_float64(name):
    policy, reference, of = extremes(("paired",))
    terms, _, _ = run(name, {}, policy, reference, of)
    logps = np.array([sides for sides, *_ in GROUPS])
    constant = np.array([sides if other is None else other for sides, other, *_ in GROUPS])
    lengths = np.array([lengths for *_, lengths in GROUPS], np.float64)
    np.testing.assert_allclose(terms.loss, FORMULAS[name](logps, logps - constant, lengths), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.95, *(pytest.param(gamma, marks=pytest.mark.slow) for gamma in (0.5, 1.0))])
@pytest.mark.parametrize(("norm", "function"), [("l1", np.array), ("l2", np.square), ("log", np.log1p), ("softmax", np.exp)])
def test_the_ift_loss_of_unlikely_tokens_is_that_of_float64(norm, function, gamma):
    nll = np.array([[700.0, 0.0, 1300.0, 400.0], [0.0, 9000.0, 0.0, 1000.0], [2.0, 1.0, 0.5, 3.0]])
    of = batch(3, 1, lengths=np.full((3, 1), 4), paired=False)
    _, value, _ = run("ift", {"gamma": gamma, "norm": norm}, Outputs(jnp.asarray(-nll, jnp.float32)), None, of)
    future = np.stack([sum(gamma ** (k - t) * nll[:, k] for k in range(t, 4)) for t in range(4)], 1) / 4
    weights = function(future - (future.max(1, keepdims=True) if norm == "softmax" else 0))
    np.testing.assert_allclose(value, ((weights * nll).sum(1) / weights.sum(1)).mean(), rtol=1e-5)

"""PPO, GRPO, RLOO and REINFORCE: golden numbers, what is true of the first step, and the KL's gradients where texts can be enumerated."""

import itertools
import json

import jax
import jax.numpy as jnp
from losses import GOLDEN, means, metric
import numpy as np
import pytest

from jaxalign import objectives
from jaxalign.objectives.families import adaptive_kl, surrogate
from jaxalign.rollout import advantages
from jaxalign.types import Batch, Outputs

GIVEN, EXPECTED = next(
    (case["inputs"], case["expected"])
    for case in json.loads((GOLDEN / "vectors-policy-gradient.json").read_text())["cases"]
    if case["id"] == "P3"
)
POLICY_ALONE = {"value_coef": 0.0}


def batch(slots, columns=None, *, responses=1):
    """Rows of these slots with numbers of responses [N, K] or of tokens [R, T]."""
    slots = jnp.asarray(slots, jnp.int32)
    zeros, groups = jnp.zeros_like(slots), len(slots)
    columns = {name: jnp.asarray(value, jnp.float32) for name, value in (columns or {}).items()}
    valid = jnp.ones((groups, responses), bool)
    return Batch(zeros, zeros, zeros + 1, zeros, slots, valid.astype(jnp.float32), jnp.zeros(groups, bool), valid, columns)


def of(name, policy, data, reference=None, values=None, **hparams):
    """(terms, mean loss, gradient to the policy's log-probs, statistics)."""
    bound = objectives.bind(name, **hparams)
    policy = jnp.asarray(policy, jnp.float32)
    reference = Outputs(policy if reference is None else jnp.asarray(reference, jnp.float32))

    def outputs(logps):
        return Outputs(logps, values=None if values is None else jnp.asarray(values, jnp.float32))

    current = means(bound.statistics(outputs(policy), reference, data))
    known = bound.carry({key: jnp.float32(0) for key in current}, current, jnp.int32(0))

    def mean(logps):
        terms = bound.terms(outputs(logps), reference, data, known)
        return jnp.sum(jnp.where(terms.weight > 0, terms.loss, 0.0) * terms.weight) / jnp.sum(terms.weight), terms

    (value, terms), gradient = jax.jit(jax.value_and_grad(mean, has_aux=True))(policy)
    return terms, value, gradient, known


def golden(**hparams):
    names = {"rollout_logps": "old_logp", "token_advantage": "adv", "token_return": "returns", "rollout_values": "old_values"}
    data = batch(np.where(np.array(GIVEN["mask"]) > 0, 0, -1), {name: GIVEN[key] for name, key in names.items()})
    return of("ppo", GIVEN["new_logp"], data, values=GIVEN["new_values"], **hparams)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("hparams", "key"),
    [
        ({}, "policy_loss_token_mean"),
        ({"reduction": "response_mean"}, "policy_loss_seq_mean"),
        ({"clip_high": 0.28}, "policy_loss_clip_higher_0_28"),
    ],
)
def test_the_golden_losses_of_the_policy_come_out(hparams, key):
    _, value, gradient, _ = golden(**POLICY_ALONE, **hparams)
    assert_close(value, EXPECTED[key])
    if not hparams:
        assert_close(gradient, EXPECTED["grad_policy_loss_wrt_new_logp"])


def test_the_golden_metrics_and_losses_of_the_critic_come_out():
    terms, value, _, _ = golden(value_coef=0.5)
    assert_close(metric(terms, "ratios/low") + metric(terms, "ratios/high"), EXPECTED["clipfrac"])
    assert_close(metric(terms, "ratios/kl"), EXPECTED["approx_kl_k3"])
    assert_close(metric(terms, "loss/value"), EXPECTED["value_loss_clipped_token_mean"])
    assert_close(metric(terms, "values/clipped"), EXPECTED["value_clipfrac"])
    assert_close(value, EXPECTED["policy_loss_token_mean"] + 0.5 * EXPECTED["value_loss_clipped_token_mean"])
    assert_close(metric(golden(value_clip=0.0)[0], "loss/value"), EXPECTED["value_loss_unclipped_token_mean"])


def test_the_golden_dual_clip_comes_out():
    example = GIVEN["dual_clip_example"]
    for dual_clip, expected in ((example["c"], EXPECTED["dual_clip_loss"]), (0.0, example["ratio"])):
        clips = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": dual_clip}
        loss, metrics = surrogate.clipped(jnp.log(jnp.array([example["ratio"]])), jnp.array([example["adv"]]), **clips)
        assert_close(loss, [expected])
    assert "ratios/dual" not in metrics


SLOTS = np.array([[-1, 0, 0, 0, 1, -1], [-1, 0, 1, 1, 1, 1]])
LOGPS = np.random.default_rng(3).normal(-2, 0.5, SLOTS.shape) * (SLOTS >= 0)
ADVANTAGE = np.array([[1.5, -0.5], [0.25, -2.0]])
LENGTHS = np.array([[3, 1], [1, 4]])


def rollout(logps=LOGPS):
    """Two rows of two responses with the advantages above, drawn with these log-probs."""
    tokens = {
        name: np.where(SLOTS >= 0, np.take_along_axis(ADVANTAGE, np.maximum(SLOTS, 0), 1), 0)
        for name in ("token_advantage", "token_return")
    }
    columns = {"rollout_logps": logps, "advantage": ADVANTAGE, "rollout_values": np.zeros(SLOTS.shape), "first_visit": np.ones((2, 2))}
    return batch(SLOTS, columns | tokens, responses=2)


def by_token(x):
    return np.where(SLOTS >= 0, np.take_along_axis(x, np.maximum(SLOTS, 0), 1), 0)


FIRST_STEPS = {  # the weight of each response's tokens in the gradient
    "ppo": (POLICY_ALONE, np.ones((2, 2)) / 9),
    "grpo": ({}, 1 / LENGTHS / 4),
    "grpo-token_mean": ({"reduction": "token_mean"}, np.ones((2, 2)) / 9),
    "grpo-constant": ({"reduction": "constant", "max_tokens": 8}, np.ones((2, 2)) / 8 / 4),
    "grpo-sequence": ({"ratio": "sequence"}, 1 / LENGTHS / 4),
    "rloo": ({}, np.ones((2, 2)) / 4),
    "reinforce": ({"baseline": "none"}, np.ones((2, 2)) / 4),
}


@pytest.mark.parametrize("case", FIRST_STEPS)
def test_the_first_step_is_the_policy_gradient(case):
    hparams, weight = FIRST_STEPS[case]
    terms, _, gradient, _ = of(case.partition("-")[0], LOGPS, rollout(), values=np.zeros(SLOTS.shape), **hparams)
    np.testing.assert_allclose(gradient, -by_token(ADVANTAGE * weight), rtol=1e-5, atol=1e-7)
    if case != "reinforce":
        assert metric(terms, "ratios/mean") == 1 and metric(terms, "ratios/kl") == 0


def test_reinforce_takes_the_mean_advantage_of_the_batch_for_its_baseline():
    gradient, known = of("reinforce", LOGPS, rollout())[2:]
    np.testing.assert_allclose(gradient, -by_token((ADVANTAGE - ADVANTAGE.mean()) / 4), rtol=1e-5, atol=1e-7)
    assert known["baseline"] == pytest.approx(ADVANTAGE.mean())


@pytest.mark.parametrize(("hparams", "ratio"), [({}, np.sum), ({"ratio": "sequence"}, np.mean)], ids=["rloo", "gspo"])
def test_a_ratio_of_responses_is_cut_as_a_whole(hparams, ratio):
    moved = LOGPS + np.where(SLOTS == 0, 0.15, 0.02) * (SLOTS >= 0)
    terms, value, gradient, _ = of("grpo" if hparams else "rloo", moved, rollout(), **hparams)
    rho = np.exp([[ratio([0.15] * LENGTHS[n, k]) if k == 0 else ratio([0.02] * LENGTHS[n, k]) for k in range(2)] for n in range(2)])
    expected = -np.minimum(rho * ADVANTAGE, np.clip(rho, 0.8, 1.2) * ADVANTAGE)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)
    cut = (rho > 1.2) & (ADVANTAGE > 0)
    assert cut.any() == (ratio is np.sum)
    assert metric(terms, "ratios/high") == pytest.approx(cut.mean(), abs=1e-6)
    np.testing.assert_array_equal(np.asarray(gradient) != 0, (SLOTS >= 0) & ~(by_token(cut) > 0))


# Four letters, texts of three, a table of logits: every expectation is a sum over 64 texts.
LETTERS, LENGTH = 4, 3
TEXTS = np.array(list(itertools.product(range(LETTERS), repeat=LENGTH)))
CONTEXTS = np.stack([np.zeros(64, int), 1 + TEXTS[:, 0], 5 + 4 * TEXTS[:, 0] + TEXTS[:, 1]], 1)
TABLES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 21, LETTERS)), jnp.float32)  # of policy and reference


def logps_of(table):
    return jax.nn.log_softmax(table)[CONTEXTS, TEXTS]


def token_kls(p, q):
    """KL(p || q) after each prefix of each text: [64, 3]."""
    return jnp.sum(jnp.exp(jax.nn.log_softmax(p)) * (jax.nn.log_softmax(p) - jax.nn.log_softmax(q)), -1)[CONTEXTS]


def expected_gradient(loss):
    """Gradient to the policy's table of the mean of loss(log-probs of the policy) [64] or [64, 3] over the policy's own texts."""
    chances = jnp.exp(logps_of(TABLES[0]).sum(1))
    return jax.jit(jax.grad(lambda table: jnp.sum(chances * loss(logps_of(table)).reshape(64, -1).sum(1))))(TABLES[0])


@pytest.mark.parametrize("estimate", ["k1", "k2", "k3"])
def test_the_mean_gradient_of_a_kl_in_the_loss_is_that_of_the_exact_kl(estimate):
    found = expected_gradient(lambda logps: surrogate.kl_loss(Outputs(logps), Outputs(logps_of(TABLES[1])), estimate))
    chances = jnp.exp(logps_of(TABLES[0]).sum(1, keepdims=True))
    exact = {
        "k1": lambda table: jnp.sum(0 * table),
        "k2": lambda table: jnp.sum(chances * token_kls(table, TABLES[1])),
        "k3": lambda table: jnp.sum(chances * token_kls(TABLES[1], table)),
    }
    expected = jax.grad(exact[estimate])(TABLES[0])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert (np.abs(expected).max() > 1e-2) == (estimate != "k1")


def test_k3_never_pushes_away_from_the_reference():
    gradient = jax.vmap(jax.grad(surrogate.ESTIMATES["k3"]), (0, None))(jnp.array([-40.0, -24.0, -6.0, -5.0, -4.0, 30.0]), -5.0)
    np.testing.assert_allclose(gradient, [0.0, 1 - np.exp(19.0), 1 - np.e, 0.0, 1 - np.exp(-1), 1.0], rtol=1e-5)


@pytest.mark.parametrize("name", ["ppo", "rloo"])
def test_a_kl_in_the_reward_has_the_gradient_of_the_kl_of_whole_texts(name):
    old, constant = logps_of(TABLES[0]), logps_of(TABLES[1])
    data, values = batch(np.zeros((64, LENGTH))), jnp.asarray(np.random.default_rng(1).normal(size=21)[CONTEXTS], jnp.float32)
    data = data.replace(positions=jnp.broadcast_to(jnp.arange(LENGTH), (64, LENGTH)))
    columns = {"rollout_logps": old, "rollout_values": values, "token_return": values}
    if name == "ppo":
        rewards = advantages.token_rewards(jnp.zeros((64, 1)), old - constant, data, beta=0.3)
        columns["token_advantage"] = advantages.gae(rewards, values, data, gamma=1.0, lam=1.0)[0]
    else:
        columns["advantage"] = advantages.with_kl(jnp.zeros((64, 1)), old - constant, data, beta=0.3)
    data, bound = data.replace(columns=columns), objectives.bind(name)
    known = {key: jnp.zeros(()) for key in bound.statistics(Outputs(old), Outputs(constant), data)}
    found = expected_gradient(lambda logps: bound.terms(Outputs(logps, values=values), Outputs(constant), data, known).loss)
    expected = jax.grad(lambda table: 0.3 * jnp.sum(jnp.exp(logps_of(table).sum(1)) * (logps_of(table) - constant).sum(1)))(TABLES[0])
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(("distance", "grown"), [(9.0, 0.02), (1.1, 0.01), (1.0, 0.0), (0.1, -0.02)])
def test_the_strength_of_the_kl_follows_its_target(distance, grown):
    reference = LOGPS - 2.0 * distance * (SLOTS >= 0) / by_token(np.maximum(LENGTHS, 1)).clip(1)
    terms, _, _, known = of("ppo", LOGPS, rollout(), reference, np.zeros(SLOTS.shape), target_kl=2.0, kl_rate=0.1, beta=0.5)
    assert metric(terms, "drift") == pytest.approx(2.0 * distance, rel=1e-5)
    assert known[adaptive_kl.NAME] == pytest.approx(np.log1p(grown), abs=1e-6)
    assert metric(terms, "kl/factor") == pytest.approx(1 + grown, rel=1e-5)
    again = adaptive_kl.carry(known, {adaptive_kl.NAME: jnp.float32(9.0), "seen": jnp.float32(0)}, target_kl=2.0, rate=0.1)
    assert again[adaptive_kl.NAME] == known[adaptive_kl.NAME]  # a batch without responses


def test_a_batch_moves_the_strength_of_the_kl_at_its_first_visit_alone():
    first, reference = rollout(), LOGPS - 5.0 * (SLOTS >= 0)
    later = first.replace(columns=first.columns | {"first_visit": jnp.zeros((2, 2))})
    bound = objectives.bind("ppo", target_kl=2.0, kl_rate=1.0, beta=0.5)
    known = {name: jnp.float32(0) for name in bound.statistics_names}
    for data, expected in ((first, 1.2), (later, 1.2), (later, 1.2), (first, 1.44)):
        current = means(bound.statistics(Outputs(jnp.asarray(LOGPS)), Outputs(jnp.asarray(reference)), data))
        known = bound.carry(known, current, jnp.int32(0))
        assert adaptive_kl.factor(known) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "hparams", "words"),
    [
        ("grpo", {"clip_low": 1.5}, "ratios stay in"),
        ("rloo", {"clip_high": 0.0}, "ratios stay in"),
        ("grpo", {"dual_clip": 0.5}, "a ratio above 1, often 3"),
        ("grpo", {"kl": "k1", "beta": 0.1}, "in a loss k1 pushes nowhere"),
        ("ppo", {"beta": -1.0}, "beta >= 0"),
        ("grpo", {"ratio": "word"}, "token, sequence"),
        ("grpo", {"reduction": "constant"}, "'constant' divides by max_tokens"),
        ("grpo", {"max_tokens": 9}, "no other reduction reads it"),
        ("ppo", {"value_clip": -1.0}, "none is below 0"),
        ("ppo", {"target_kl": 1.0, "kl_rate": 5.0}, "a rate above 0 and 1 at most"),
        ("ppo", {"target_kl": 1.0, "kl_rate": 0.0}, "a rate above 0 and 1 at most"),
        ("grpo", {"kl": "k2"}, "kl='k2' with beta=0.0, where the loss holds no KL; set beta above 0, or leave kl out"),
        ("ppo", {"kl_rate": 0.2}, "kl_rate=0.2 without target_kl, to which it steers; set target_kl, or leave kl_rate out"),
        ("reinforce", {"baseline": "mean"}, "batch, none"),
    ],
)
def test_an_option_out_of_its_range_or_without_effect_is_refused(name, hparams, words):
    with pytest.raises(ValueError, match=words):
        of(name, LOGPS, rollout(), values=np.zeros(SLOTS.shape), **hparams)

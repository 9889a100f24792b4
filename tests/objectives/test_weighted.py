"""The A-LoL family and its baselines: golden vectors, limits, invariants, and what they refuse."""

import jax
import jax.numpy as jnp
from modpo_vectors import CASES, outputs, responses
import numpy as np
import pytest
import toys

from jaxalign import sharding
from jaxalign.types import Outputs

ALOL = ["alol", "alol_seq", "alol_ref_free", "alol_kl_published"]
RATIOS = ["alol", "alol_seq", "rlol"]
ALL = [*ALOL, "rlol", "wbc", "gold", "nll"]
VECTOR = {
    "nll": "nll", "wbc": "wbc", "gold": "r_gold", "rlol": "r_lol", "alol": "a_lol", "alol_ref_free": "a_lol_ref_free",
    "alol_seq": "a_lol_seq", "alol_kl_published": "a_lol_kl",
}  # fmt: skip
VARIANTS = [(name, eps) for eps in ("eps_0.9", "eps_0.2") for name in VECTOR if eps == "eps_0.9" or name in RATIOS]


def evaluate(name, policy, reference, mask, *, reward, advantage, valid=None, **hparams):
    """(terms, gradients of the mean loss to the policy's log-probs, the reference's, (reward, advantage)); arrays [N, K, L] and [N, K]"""

    def mean(policy, reference, judged):
        batch = responses(mask, reward=judged[0], valid=valid, advantage=judged[1])
        terms = toys.objective(name)[0](outputs(policy), outputs(reference), batch, **hparams)
        return jnp.sum(terms.loss * terms.weight) / jnp.sum(terms.weight), terms

    arrays = (jnp.asarray(x, jnp.float32) for x in (policy, reference))
    judged = tuple(jnp.asarray(x, jnp.float32) for x in (reward, advantage))
    (_, terms), gradients = jax.jit(jax.value_and_grad(mean, argnums=(0, 1, 2), has_aux=True))(*arrays, judged)
    return terms, *gradients


def of_vector(name, case="alol_7_all_variants", policy="policy_token_logp", **hparams):
    given, expected = CASES[case]
    reward, value = (np.array(given[key])[:, None] for key in ("reward", "value"))
    arrays = (np.array(given[key])[:, None] for key in (policy, "ref_token_logp", "mask"))  # K = 1
    return expected, *evaluate(name, *arrays, reward=reward, advantage=reward - value, **hparams)


def mean(pair):
    return float(np.average(pair[0], weights=pair[1]))


@pytest.mark.parametrize(("name", "eps"), VARIANTS)
def test_the_golden_losses_and_gradients_come_out(name, eps):
    hparams = {"clip": float(eps[4:])} if name in RATIOS else {"kl_beta": 0.2} if name == "alol_kl_published" else {}
    expected, terms, gradient, to_reference, to_judged = of_vector(name, **hparams)
    np.testing.assert_allclose(mean((terms.loss, terms.weight)), expected[eps]["loss"][VECTOR[name]], rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], expected[eps]["grad_wrt_policy_token_logp"][VECTOR[name]], rtol=1e-6)
    assert not to_reference.any() and not any(x.any() for x in to_judged)


@pytest.mark.parametrize("eps", ["eps_0.9", "eps_0.2"])
def test_the_golden_ratios_advantages_and_drifts_are_in_the_metrics(eps):
    expected, terms, *_ = of_vector("alol", clip=float(eps[4:]))
    metrics, expected = {name: value for name, (value, _) in terms.metrics.items()}, expected[eps]
    ratios = np.array(expected["seq_ratio"])
    np.testing.assert_allclose(metrics["ratios/mean"][:, 0], expected["seq_ratio_clipped"], rtol=1e-6)
    np.testing.assert_allclose(metrics["drift"][:, 0], np.log(ratios), rtol=1e-6)
    np.testing.assert_array_equal(metrics["ratios/high"][:, 0], ratios > 1 + float(eps[4:]))
    np.testing.assert_array_equal(metrics["ratios/low"][:, 0], ratios < 1 - float(eps[4:]))
    np.testing.assert_allclose(metrics["nll"][:, 0], expected["seq_nll"], rtol=1e-6)
    np.testing.assert_allclose(metrics["advantages/mean"][:, 0], expected["advantage_clamped"], rtol=1e-6)
    _, by_token, *_ = of_vector("alol_seq", clip=float(eps[4:]))
    ratios, scored = by_token.metrics["ratios/mean"]
    np.testing.assert_allclose(ratios * scored, expected["token_ratio_clipped"], rtol=1e-6)
    assert scored.sum() == 5


@pytest.mark.parametrize("name", ALOL)
def test_at_the_reference_the_golden_variants_agree_and_a_negative_advantage_has_no_weight(name):
    expected, terms, gradient, _, _ = of_vector(name, "alol_8_init_identity_and_negative_advantage")
    vector = VECTOR[name]
    np.testing.assert_allclose(mean((terms.loss, terms.weight)), expected[f"loss_{vector}"], rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], expected["grad_a_lol_kl" if "kl" in name else "grad_a_lol"], rtol=1e-6)
    np.testing.assert_allclose(terms.metrics["advantages/mean"][0][:, 0], expected["raw_advantage"], rtol=1e-6)
    assert mean(terms.metrics["advantages/not_positive"]) == 0.5


def drawn(seed=0, count=4):
    """Policy and reference log-probs, a mask with ragged lengths, rewards and advantages of groups of three responses."""
    draw = np.random.default_rng(seed)
    mask = np.arange(6) < draw.integers(1, 7, (count, 3, 1))
    logps = [np.where(mask, -draw.exponential(size=mask.shape), 0.0) for _ in range(2)]
    return (*logps, mask), {"reward": draw.random((count, 3)), "advantage": draw.standard_normal((count, 3))}


def test_at_the_reference_alol_alol_seq_and_ref_free_agree_in_value_and_gradient():
    (policy, _, mask), judged = drawn()
    plain, seq, free = (evaluate(name, policy, policy, mask, **judged)[:2] for name in ("alol", "alol_seq", "alol_ref_free"))
    np.testing.assert_allclose(seq[0].loss, plain[0].loss, rtol=1e-6)
    np.testing.assert_array_equal(free[0].loss, plain[0].loss)
    np.testing.assert_array_equal(seq[1], plain[1])
    np.testing.assert_array_equal(free[1], plain[1])
    assert plain[1].any()


@pytest.mark.parametrize(("name", "limit"), [("alol", "alol_ref_free"), ("alol_seq", "alol_ref_free"), ("rlol", "wbc")])
def test_a_band_of_no_width_is_no_ratio(name, limit):
    arrays, judged = drawn()
    ours, theirs = evaluate(name, *arrays, **judged, clip=0.0), evaluate(limit, *arrays, **judged)
    np.testing.assert_allclose(ours[0].loss, theirs[0].loss, rtol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)


@pytest.mark.parametrize("name", ["alol", "rlol"])
@pytest.mark.parametrize("clip", [1.0, 1e6])
def test_a_wide_band_leaves_the_ratio_as_it_is(name, clip):
    arrays, judged = drawn()
    terms, *_ = evaluate(name, *arrays, **judged, clip=clip)
    ratio, drift = (np.asarray(terms.metrics[key][0]) for key in ("ratios/mean", "drift"))
    np.testing.assert_allclose(ratio, np.minimum(np.exp(drift), 1 + clip), rtol=1e-5)
    assert not terms.metrics["ratios/low"][0].any()


def test_a_reward_of_one_makes_weighted_cloning_the_nll():
    arrays, judged = drawn()
    ones = judged | {"reward": np.ones((4, 3))}
    np.testing.assert_array_equal(evaluate("wbc", *arrays, **ones)[0].loss, evaluate("nll", *arrays, **ones)[0].loss)


@pytest.mark.parametrize("name", ALOL)
def test_the_reward_itself_is_not_read_only_the_advantage(name):
    arrays, judged = drawn()
    shifted = judged | {"reward": judged["reward"] + 5}  # reward and value moved by the same number: the advantage stays
    np.testing.assert_array_equal(evaluate(name, *arrays, **shifted)[0].loss, evaluate(name, *arrays, **judged)[0].loss)


@pytest.mark.parametrize("name", ["wbc", "rlol", "gold"])
def test_a_shift_of_the_reward_does_change_its_baselines(name):
    arrays, judged = drawn()
    shifted = judged | {"reward": judged["reward"] + 5}
    assert (evaluate(name, *arrays, **shifted)[0].loss > evaluate(name, *arrays, **judged)[0].loss + 0.1).all()


@pytest.mark.parametrize("name", ALL)
def test_every_valid_response_of_a_group_counts_once_and_filler_not_at_all(name):
    arrays, judged = drawn()
    valid = np.array([[True, True, False], [True, False, False], [True, True, True], [False, False, False]])
    terms, gradient, _, _ = evaluate(name, *arrays, **judged, valid=valid)
    np.testing.assert_array_equal(terms.weight, valid)
    assert not gradient[~valid].any()
    assert all(weight.sum() in (valid.sum(), arrays[2][valid].sum()) for _, weight in terms.metrics.values())
    whole, *_ = evaluate(name, *arrays, **judged)
    np.testing.assert_array_equal(terms.loss, whole.loss)


@pytest.mark.parametrize("name", RATIOS)
def test_a_long_drift_saturates_and_does_not_overflow(name):
    mask = np.ones((2, 1, 128))
    policy, reference = np.full(mask.shape, -0.1), np.full(mask.shape, -0.8)  # 128 tokens of 0.7 nats: exp(89.6) is beyond float32
    reference[1], policy[1] = -0.1, -0.8
    terms, gradient, *_ = evaluate(name, policy, reference, mask, reward=[[1.0], [1.0]], advantage=[[1.0], [1.0]])
    assert np.isfinite(terms.loss).all() and np.isfinite(gradient).all() and (gradient < 0).all()
    if name != "alol_seq":
        np.testing.assert_allclose(terms.metrics["ratios/mean"][0][:, 0], [1.9, 0.1], rtol=1e-6)
        assert mean(terms.metrics["ratios/high"]) == mean(terms.metrics["ratios/low"]) == 0.5


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("drift", [800.0, -800.0])
def test_loss_and_gradient_are_finite_at_a_huge_drift(name, drift):
    mask, low = np.ones((1, 1, 1)), np.full((1, 1, 1), -800.0)
    sides = (0 * low, low) if drift > 0 else (low, 0 * low)
    terms, gradient, *_ = evaluate(name, *sides, mask, reward=[[1.0]], advantage=[[1.0]])
    assert np.isfinite(terms.loss).all() and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["alol", "wbc"])
def test_the_effective_share_of_the_batch_follows_from_the_weights(name):
    mask, ones = np.ones((4, 1, 2)), np.ones((4, 1))
    logps = -np.ones(mask.shape)
    judged = {"reward": ones * [[1], [0], [0], [1]], "advantage": ones * [[1], [-1], [0], [1]]}
    terms, *_ = evaluate(name, logps, logps, mask, **judged)
    assert mean(terms.metrics["weights/mean"]) ** 2 / mean(terms.metrics["weights/mean_square"]) == 0.5


@pytest.mark.parametrize(
    ("name", "hparams", "message"),
    [
        ("alol", {"clip": -0.1}, "'alol' got clip=-0.1"),
        ("alol_seq", {"clip": float("inf")}, "'alol_seq' got clip=inf"),
        ("rlol", {"clip": -1.0}, "'rlol' got clip=-1.0"),
        ("gold", {"floor": 1.5}, "'gold' got floor=1.5"),
        ("alol_kl", {"kl_beta": -0.1}, "'alol_kl' got kl_beta=-0.1"),
        ("alol_kl_published", {"kl_beta": -0.1}, "'alol_kl_published' got kl_beta=-0.1"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(name, hparams, message):
    arrays, judged = drawn()
    with pytest.raises(ValueError, match=message):
        evaluate(name, *arrays, **judged, **hparams)


@pytest.mark.parametrize("name", [*ALOL, "alol_kl"])
def test_a_batch_without_advantages_is_refused(name):
    side = Outputs(jnp.zeros((1, 2)), hidden=jnp.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match=r"reads column 'advantage' but the batch has \(\).*data.computed"):
        toys.objective(name)[0](side, side, responses(np.ones((1, 1, 2))))


def test_the_kl_penalty_refuses_a_reference_of_log_probs_alone():
    side = Outputs(jnp.zeros((1, 2)), hidden=jnp.zeros((1, 2, 3)))
    batch = responses(np.ones((1, 1, 2)), advantage=np.ones((1, 1)))
    with pytest.raises(ValueError, match="'alol_kl' needs the reference's whole distribution.*reference.rule='frozen'"):
        toys.objective("alol_kl")[0](side, side.replace(hidden=None), batch)


VOCABULARY = 5


def with_kl(policy_logits, reference_logits, advantage, kl_beta):
    """(loss float32[N, 1], gradient of its sum to the policy's logits) on all tokens but the first; the head is an identity."""
    count, length, _ = policy_logits.shape
    mask = np.ones((count, 1, length), bool)
    mask[:, :, 0] = False
    with jax.set_mesh(toys.mesh()):
        place = lambda x, *axes: jax.device_put(x, sharding.named(sharding.spec(*axes)))  # noqa: E731
        batch = responses(mask, advantage=advantage)
        batch = jax.tree.map(lambda x: place(x, "rows", *[None] * (x.ndim - 1)), batch)
        head = place(jnp.eye(VOCABULARY), "vocab", "embed")
        policy_logits, reference_logits = (place(x, "rows", None, None) for x in (policy_logits, reference_logits))

        def look(logits):
            logps = jnp.pad(jax.nn.log_softmax(logits[:, :-1])[..., 1], ((0, 0), (1, 0)))  # every token is number 1
            return Outputs(logps, logits, head, vocab_size=VOCABULARY)

        def total(logits):
            terms = toys.objective("alol_kl")[0](look(logits), look(reference_logits), batch, kl_beta=kl_beta)
            return terms.loss.sum(), terms.loss

        (_, loss), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(policy_logits)
    return np.asarray(loss), np.asarray(gradient)


def test_the_kl_penalty_is_that_of_whole_distributions_and_has_a_gradient():
    draw = np.random.default_rng(1)
    policy, reference = (jnp.asarray(draw.standard_normal((3, 4, VOCABULARY)), jnp.float32) for _ in range(2))
    advantage, kl_beta = jnp.array([[0.5], [-0.3], [0.2]]), 0.7

    def expected(policy):
        p, q = jax.nn.log_softmax(policy[:, :-1]), jax.nn.log_softmax(reference[:, :-1])
        kl = (jnp.exp(p) * (p - q)).sum(-1)
        return (jnp.maximum(advantage, 0) * -p[..., 1] + kl_beta * kl).sum(1)

    loss, gradient = with_kl(policy, reference, advantage, kl_beta)
    np.testing.assert_allclose(loss[:, 0], expected(policy), rtol=1e-5)
    np.testing.assert_allclose(gradient, jax.grad(lambda x: expected(x).sum())(policy), rtol=1e-4, atol=1e-6)


def test_at_the_reference_the_kl_penalty_has_no_value_and_no_gradient():
    logits = jnp.asarray(np.random.default_rng(1).standard_normal((3, 4, VOCABULARY)), jnp.float32)
    loss, gradient = with_kl(logits, logits, jnp.full((3, 1), -1.0), 10.0)
    np.testing.assert_allclose(loss, 0, atol=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


@pytest.mark.parametrize("name", [*ALOL[:3], "rlol", "wbc"])
def test_on_a_bandit_the_mean_reward_rises_with_every_step(name):
    reward = jnp.array([0.9, 0.6, 0.3, 0.1])  # a uniform reference whose data hold every arm once; its value is the mean reward
    reference, scores, means = jnp.full(4, -jnp.log(4.0)), jnp.zeros(4), []

    @jax.jit
    @jax.grad
    def slope(scores):
        batch = responses(np.ones((4, 1, 1)), reward=reward[:, None], advantage=(reward - reward.mean())[:, None])
        terms = toys.objective(name)[0](outputs(jax.nn.log_softmax(scores)[:, None]), outputs(reference[:, None]), batch)
        return (terms.loss * terms.weight).sum() / terms.weight.sum()

    for _ in range(30):
        means.append(float(jax.nn.softmax(scores) @ reward))
        scores = scores - 1.0 * slope(scores)
    assert (np.diff(means) > 0).all() and means[-1] > means[0] + 0.05

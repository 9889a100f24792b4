"""The evaluation step: sums by prompt that agree with the train step, the KL, and what is measured against the first reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import ROW_TOKENS, arrays, dpo_step
import toys

from jaxalign import objectives
from jaxalign.training import metrics, step
from jaxalign.types import Terms


@pytest.fixture
def on_one_device():
    with jax.set_mesh(toys.mesh()):
        yield


def mean(sums_and_weights):
    sums, weights = sums_and_weights
    return sums.sum() / weights.sum()


def test_the_evaluation_step_agrees_with_the_train_step(on_one_device):
    def kl(policy, constant, batch):
        return jnp.where(batch.slots >= 0, 3.0, 0.0)

    eval_step = step.make_eval_step(toys.next_token(), objectives.bind("dpo"), kl)
    state, batch = toys.make_state("dpo"), toys.place(arrays())
    sums = eval_step(state, batch)
    _, metrics = dpo_step()(state, batch)
    assert set(metrics) - {"grad_norm", "learning_rate"} == set(sums) - {"kl"}
    for name in set(sums) - {"kl"}:
        assert sums[name][0].shape == sums[name][1].shape == batch.paired.shape
        np.testing.assert_allclose(mean(sums[name]), metrics[name], rtol=1e-6, atol=1e-6, err_msg=name)
    tokens_of_prompts = np.array([(arrays()["slots"][n // 2] // 3 == n % 2).sum() for n in range(8)])  # three slots each
    np.testing.assert_allclose(sums["kl"], [3.0 * tokens_of_prompts, tokens_of_prompts])


def test_the_evaluation_step_gives_every_device_all_prompts():
    with jax.set_mesh(toys.mesh((2, 2, 1))):
        eval_step = step.make_eval_step(toys.next_token(), objectives.bind("dpo"), lambda *_: jnp.zeros((4, ROW_TOKENS)))
        sums = eval_step(toys.make_state("dpo"), toys.place(arrays()))
    assert all(x.is_fully_replicated for pair in sums.values() for x in pair)


def test_a_metric_that_belongs_to_no_prompt_is_refused(on_one_device):
    def scalar(policy, constant, batch):
        return Terms(batch.reward, batch.valid.astype(jnp.float32), {"odd": (jnp.ones(3), jnp.ones(3))})

    eval_step = step.make_eval_step(toys.next_token(), objectives.plain(scalar), lambda *_: jnp.zeros((4, ROW_TOKENS)))
    with pytest.raises(ValueError, match=r"metric 'odd' has the shape \(3,\); give \[N, ...\] for 8 prompts"):
        eval_step(toys.make_state("dpo"), toys.place(arrays()))


@pytest.mark.slow
def test_against_the_first_reference_running_statistics_begin_with_the_batch(on_one_device):
    def kl(policy, constant, batch):
        return jnp.zeros(batch.slots.shape)

    eval_step = step.make_eval_step(toys.next_token(), objectives.bind("bco", decay=0.9), kl)
    state, batch = toys.make_state("bco"), toys.place(arrays())
    seen = {"rewards": jnp.float32(3.0), "seen": jnp.float32(0.5)}  # a mean of 6 against the reference that moved
    both = eval_step(state.replace(initial=state.reference, statistics=seen), batch)
    alone = eval_step(state, batch)
    for name in ("loss", "offset", "rewards/chosen"):
        np.testing.assert_allclose(both[f"initial/{name}"], alone[name], rtol=1e-6, err_msg=name)
    assert abs(mean(both["offset"]) - mean(alone["offset"])) > 1


def numpy_kl(params, others, batch):
    """KL(params || others) over all scored tokens, mean, from whole soft-maxes in float64."""

    def log_probs(params):
        outputs = toys.next_token()(params, batch, 0)
        logits = (np.float64(outputs.hidden) @ np.float64(outputs.unembed).T)[:, :-1, : toys.CONFIG.vocab_size]
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    p, q = log_probs(params), log_probs(others)
    return (np.exp(p) * (p - q)).sum(-1)[np.asarray(batch.slots[:, 1:]) >= 0].mean()


def test_the_evaluated_kl_is_that_of_the_policy_from_the_reference(on_one_device):
    # Catches: KL(reference || policy), in the metric or in what the evaluation step hands to it.
    eval_step = step.make_eval_step(toys.next_token(), objectives.bind("dpo"), metrics.kl)
    state, batch = toys.make_state("dpo"), toys.place(arrays())
    forwards, backwards = numpy_kl(state.trainable, state.reference, batch), numpy_kl(state.reference, state.trainable, batch)
    assert abs(forwards - backwards) > 0.01 * forwards
    np.testing.assert_allclose(mean(eval_step(state, batch)["kl"]), forwards, rtol=1e-5)


def test_what_is_measured_against_the_first_reference_is_not_measured_against_the_one_that_moved(on_one_device):
    # Catches: initial/ measured against the moved reference, the other metrics against the first one.
    eval_step = step.make_eval_step(toys.next_token(), objectives.bind("dpo"), metrics.kl)
    state, batch = toys.make_state("dpo"), toys.place(arrays())
    first, moved = state.reference, toys.place_params(toys.params(2))
    both = eval_step(state.replace(reference=moved, initial=first), batch)
    for prefix, alone in (
        ("initial/", eval_step(state.replace(reference=first), batch)),
        ("", eval_step(state.replace(reference=moved), batch)),
    ):
        for name, pair in alone.items():
            np.testing.assert_allclose(both[prefix + name], pair, rtol=1e-6, atol=1e-6, err_msg=prefix + name)
    assert {name for name in ("loss", "kl") if abs(mean(both[name]) - mean(both[f"initial/{name}"])) > 0.1} == {"loss", "kl"}

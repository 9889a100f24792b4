"""Held-out metrics over whole sets: batches of unequal weight, the filled-up last batch, sets with names."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_data
import toys

from jaxalign import objectives
from jaxalign.data.rows import store
from jaxalign.evaluators import held_out
from jaxalign.training import step
from jaxalign.types import Outputs, Terms, at_tokens, response_lengths

ROW_TOKENS, ROWS = 128, 4
SIZES = (1, 7, 8, 23, 40)  # prompts; a batch has 8 at most


@pytest.fixture(autouse=True)
def on_one_device():
    with jax.set_mesh(toys.mesh()):
        yield


def prepared(n):
    """n random prompts with one to three responses of uneven lengths, two to a row: the batches differ in what they weigh."""
    groups = tiny_data.random_groups(n, responses=3, seed=n)
    groups.reward[:] = np.random.default_rng(n).random(groups.reward.shape)
    plan = np.full((-(-n // 2), 2), -1, np.int32)
    plan.ravel()[:n] = np.arange(n)
    return store.Prepared(Path("set/rows"), {"row_tokens": ROW_TOKENS, "share_prompt": True, "tokenizer": "t"}, groups, plan, np.arange(n))


def rewards(policy, reference, batch):
    """An objective whose numbers can be counted by hand."""
    valid = batch.valid.astype(jnp.float32)
    lengths = response_lengths(batch)
    by_token = at_tokens(batch.reward, batch), at_tokens(valid, batch)
    return Terms(jnp.where(batch.valid, batch.reward, jnp.nan), valid, {"by_token": by_token, "lengths": (lengths, valid)})


@pytest.fixture(scope="module")
def eval_step():
    def no_model(params, batch, at):
        return Outputs(jnp.zeros(batch.tokens.shape))

    return step.make_eval_step(no_model, objectives.plain(rewards), lambda *_: jnp.zeros((ROWS, ROW_TOKENS)))


@pytest.fixture
def state():
    return toys.make_state("sft")


def by_hand(data):
    """metric -> [(sum of value * weight, sum of weight)] of every prompt, in numpy and without batches."""
    groups, found = data.groups, {"loss": [], "by_token": [], "lengths": []}
    for g in range(len(groups)):
        valid = np.flatnonzero(groups.valid[g])
        tokens = np.array([groups.piece(g, 1 + k)[1].sum() for k in valid], float)
        reward = groups.reward[g][valid].astype(float)
        found["loss"].append((reward.sum(), len(valid)))
        found["by_token"].append(((reward * tokens).sum(), tokens.sum()))
        found["lengths"].append((tokens.sum(), len(valid)))
    return found


@pytest.mark.parametrize("metric", ["loss", "by_token", "lengths"])
@pytest.mark.parametrize("n", SIZES)
def test_the_value_is_the_mean_over_the_whole_set_and_n_its_prompts(eval_step, state, n, metric):
    data = prepared(n)
    found = held_out.evaluate(eval_step, state, {"": data}, rows=ROWS)[metric]
    sums, weights = np.transpose(by_hand(data)[metric])
    assert found.n == n
    np.testing.assert_allclose(found.value, sums.sum() / weights.sum(), rtol=1e-6)


@pytest.mark.parametrize("n", SIZES[1:])
def test_the_standard_error_is_that_of_a_ratio_of_two_means_over_prompts(eval_step, state, n):
    data = prepared(n)
    found = held_out.evaluate(eval_step, state, {"": data}, rows=ROWS)["by_token"]
    sums, weights = np.transpose(by_hand(data)["by_token"])
    residuals = sums - sums.sum() / weights.sum() * weights
    np.testing.assert_allclose(found.se, residuals.std(ddof=1) / n**0.5 / weights.mean(), rtol=1e-5)


def test_one_value_per_prompt_has_the_error_of_numpy(eval_step, state):
    data = prepared(23)
    data.groups.valid[:, 1:] = False
    found = held_out.evaluate(eval_step, state, {"": data}, rows=ROWS)["loss"]
    first = data.groups.reward[:, 0].astype(float)
    np.testing.assert_allclose(found, (first.mean(), first.std(ddof=1) / 23**0.5, 23), rtol=1e-6)


def test_the_size_of_a_batch_changes_nothing(eval_step, state):
    data = prepared(23)
    four, three = (held_out.evaluate(eval_step, state, {"": data}, rows=rows) for rows in (4, 3))
    for name in four:
        np.testing.assert_allclose(four[name], three[name], rtol=1e-6, err_msg=name)


def test_sets_with_names_stand_beside_each_other(eval_step, state):
    sets = {"helpful": prepared(7), "harmless": prepared(8)}
    found = held_out.evaluate(eval_step, state, sets, rows=ROWS)
    assert {name.partition("/")[0] for name in found} == set(sets)
    assert found["helpful/loss"] == held_out.evaluate(eval_step, state, {"": sets["helpful"]}, rows=ROWS)["loss"]
    assert (found["helpful/loss"].n, found["harmless/loss"].n) == (7, 8)


@pytest.mark.parametrize("named", [("",), ("helpful", "harmless")])
def test_the_names_of_the_metrics_are_known_from_shapes_alone(eval_step, state, named):
    sets = {name: prepared(7 + number) for number, name in enumerate(named)}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    assert held_out.names(eval_step, shapes, sets, rows=ROWS) == held_out.evaluate(eval_step, state, sets, rows=ROWS).keys()


def test_prompts_keep_the_order_of_the_set(eval_step, state):
    data = prepared(23)
    sums, weights = held_out.measure(eval_step, state, data, rows=ROWS)["loss"]
    expected = np.transpose(by_hand(data)["loss"])
    np.testing.assert_allclose([sums[weights > 0], weights[weights > 0]], expected, rtol=1e-6)


def test_prompts_are_divided_by_their_label_and_places_without_a_prompt_have_none():
    own = {"accuracy": (np.array([1.0, 0.5, 0.0, 9.0]), np.array([1.0, 1.0, 2.0, 0.0])), "loss": (np.ones(4), np.ones(4))}
    found = held_out.estimates(held_out.divided({"x": own, "": own}, {"x": np.array(["a", "b", "a"]), "": np.array(["a", "a", ""])}))
    assert {name: (one.value, one.n) for name, one in found.items()} == {
        "x/by/a/accuracy": (1 / 3, 2), "x/by/b/accuracy": (0.5, 1), "by/a/accuracy": (0.75, 2),
    }  # fmt: skip


def test_a_prompt_without_a_score_on_one_side_takes_no_change_from_the_others():
    scored = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    before, after = ({"reward": (np.array([0.5, value, 1.0]) * weight, weight)} for value, weight in zip((0.0, 9.0), scored, strict=True))
    before["kl"] = (np.ones(3), np.ones(3))  # which the other side lacks altogether
    found = held_out.changes({"generate": before}, {"generate": after})
    assert found.keys() == {"generate/reward"} and (found["generate/reward"].value, found["generate/reward"].n) == (0.0, 2)

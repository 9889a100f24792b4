"""Guided decoding: which step is taken, and that its cosine is that of the forward pass."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign.data.rows import pack
from jaxalign.models import model as models
from jaxalign.sampling import guided
from jaxalign.sampling.law import Law
from jaxalign.sampling.sampler import Sample, Sampler
from jaxalign.sampling.stopping import Stopping
from jaxalign.scoring import goal, scorer
from jaxalign.training import forward

PROMPT = (5, 6, 7)
STEPS = ([[1, 2], [3], [4, 9, 8]], [[2, 2], [11, 12, 13], [14]])  # of the first and of the second draw
CHANCES = ([-1.0, -0.2, -0.6], [-0.5, -0.4, -0.9])


@pytest.fixture(autouse=True)
def on_one_device():
    with jax.set_mesh(toys.mesh()):
        yield


@pytest.fixture(scope="module")
def judge():
    with jax.set_mesh(toys.mesh()):
        model = models.build(toys.CONFIG, reward_head="linear")
        params = {**toys.place_params(toys.params(0)), **models.init_heads(model, jax.random.key(3))}
        return scorer.of_model("judge", model, params, weights="w", dtype=jnp.float32, attention="xla")


def draws(asked):
    """A sampler that draws STEPS; the last step of the second draw ends with a stop token. `asked` gets the prompts."""

    def draw(params, prompts, *, samples, most):
        number = len(asked)
        asked.append(tuple(prompts[0]))
        for i in (1, 0, 2):
            ids = np.array(STEPS[number][i], np.int32)
            logps = np.full(len(ids), CHANCES[number][i], np.float32)
            yield Sample(0, i, ids, logps, logps, "stop" if number and i == 2 else "string")

    return SimpleNamespace(draw=draw, model=models.build(toys.CONFIG))


AIM = goal.Goal(np.random.default_rng(1).standard_normal(toys.CONFIG.width).astype(np.float32), "w", 1, {})


def cosine_of(judge, before, step):
    groups = pack.Groups(
        np.array([*before, *step], np.int32), np.array([0] * len(before) + [1] * len(step), np.uint8),
        np.array([0, len(before), len(before) + len(step)]), np.ones((1, 1), np.float32), np.zeros(1, bool), np.ones((1, 1), bool),
    )  # fmt: skip
    look = jax.jit(partial(forward.next_token, judge.model, dtype=jnp.float32, remat="none", attention="xla"))
    arrays = pack.assemble(groups, np.zeros((1, 1), np.int32), row_tokens=32, share_prompt=True)
    hidden = np.asarray(look(judge.params, toys.place(arrays), jnp.int32(0)).hidden)[0][arrays["slots"][0] == 0].mean(0)
    return hidden @ AIM.vector / np.linalg.norm(hidden) / np.linalg.norm(AIM.vector)


def test_the_likeliest_step_is_taken_where_the_goal_has_no_weight(judge):
    asked = []
    found = guided.answer(draws(asked), None, PROMPT, judge, AIM, samples=3, steps=2, weight=0.0)
    assert found.token_ids == (3, 11, 12, 13)
    np.testing.assert_allclose(found.chances, [-0.2, -0.4], rtol=1e-6)
    assert (asked, found.stop) == ([PROMPT, (*PROMPT, 3)], "steps")


def test_the_step_nearest_to_the_goal_is_taken_where_it_has_all_the_weight(judge):
    found = guided.answer(draws([]), None, PROMPT, judge, AIM, samples=3, steps=1, weight=1e4)
    cosines = [cosine_of(judge, PROMPT, step) for step in STEPS[0]]
    assert list(found.token_ids) == STEPS[0][int(np.argmax(cosines))]
    np.testing.assert_allclose(found.cosines, [max(cosines)], atol=1e-5)


def test_a_stop_token_ends_the_answer(judge, monkeypatch):
    monkeypatch.setattr(goal, "of_steps", lambda *_: np.array([0.0, 0.0, 9.0]))
    found = guided.answer(draws([]), None, PROMPT, judge, AIM, samples=3, steps=9)
    assert (found.token_ids, found.stop) == ((4, 9, 8, 14), "stop")


def test_the_last_step_ends_at_the_last_position_of_either_model(judge):
    with jax.set_mesh(toys.mesh()):
        model = models.build(dataclasses.replace(toys.CONFIG, max_positions=14))  # a prompt of 3, lines of at most 4 tokens
        stopping = Stopping(4)
        ours = Sampler(model, law=Law(), stopping=stopping, seed=0, places=1, lanes=2, dtype=jnp.float32, attention="xla")
        found = guided.answer(ours, toys.place_params(toys.params(0)), PROMPT, judge, AIM, samples=2, steps=9)
        assert (len(found.token_ids), len(found.cosines), found.stop) == (11, 3, "positions")  # 4 + 4 + 3
        with pytest.raises(ValueError, match="the prompt has 14 tokens, and the models have 14 positions"):
            guided.answer(ours, None, [1] * 14, judge, AIM, samples=2, steps=9)


def test_no_samples_and_a_goal_of_other_weights_are_refused(judge):
    with pytest.raises(ValueError, match="samples=0"):
        guided.answer(draws([]), None, PROMPT, judge, AIM, samples=0)
    other = goal.Goal(AIM.vector, "another", 1, {})
    with pytest.raises(ValueError, match="other weights than those of judge"):
        guided.answer(draws([]), None, PROMPT, judge, other, samples=3)

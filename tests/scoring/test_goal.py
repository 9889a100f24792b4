"""The goal of a reward model and its cosines along answers: against the forward pass itself, and for which weights they are refused."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign.data.rows import pack, store
from jaxalign.models import model as models
from jaxalign.scoring import goal, scorer
from jaxalign.training import forward

ROWS, ROW_TOKENS = 4, 64


@pytest.fixture(autouse=True)
def on_one_device():
    with jax.set_mesh(toys.mesh()):
        yield


def judge(weights="w"):
    model = models.build(toys.CONFIG, reward_head="linear")
    params = {**toys.place_params(toys.params(0)), **models.init_heads(model, jax.random.key(3))}
    return scorer.of_model("judge", model, params, weights=weights, dtype=jnp.float32, attention="xla")


def prepared():
    groups = toys.groups(6, seed=3)
    plan = pack.plan_rows(pack.group_tokens(groups, share_prompt=True), row_tokens=ROW_TOKENS, pack=True)
    meta = {"row_tokens": ROW_TOKENS, "share_prompt": True, "tokenizer": "t", "template": "plain"}
    return store.Prepared(Path("set") / "rows", meta, groups, plan, np.arange(6))


def test_goal_rewards_and_cosines_are_those_of_the_forward_pass():
    one, made = judge(), prepared()
    aim = goal.of_answers(one, made, rows=ROWS, quiet=True)
    answers = {(answer.group, answer.response): answer for answer in goal.along(one, made, aim, rows=ROWS, quiet=True)}
    assert answers.keys() == set(zip(*np.nonzero(made.groups.valid), strict=True))
    look = jax.jit(partial(forward.next_token, one.model, dtype=jnp.float32, remat="none", attention="xla"))
    whole = np.full((ROWS, made.plan.shape[1]), -1, np.int32)
    whole[: len(made.plan)] = made.plan
    arrays = pack.assemble(made.groups, whole, row_tokens=ROW_TOKENS, share_prompt=True)
    outputs = jax.device_get(look(one.params, toys.place(arrays), jnp.int32(0)))
    ends, count = [], made.groups.responses  # with a slot for the response of another prompt
    for place, group in enumerate(whole.ravel().tolist()):
        for response in np.flatnonzero(made.groups.valid[group]) if group >= 0 else ():
            row, slot = place // whole.shape[1], place % whole.shape[1] * count + response
            states = outputs.hidden[row][arrays["slots"][row] == slot]
            answer = answers[group, response]
            cosines = states @ aim.vector / np.linalg.norm(states, axis=1) / np.linalg.norm(aim.vector)
            np.testing.assert_allclose(answer.cosines, cosines, atol=1e-5)
            np.testing.assert_allclose(answer.rewards[-1], outputs.rewards[place, response], rtol=1e-4, atol=1e-5)
            if (response == 0) if made.groups.paired[group] else made.groups.reward[group, response] > 0.5:
                ends.append(states[-1])
    assert len(ends) == aim.answers
    np.testing.assert_allclose(aim.vector, np.mean(ends, axis=0), rtol=1e-4, atol=1e-5)


def test_a_goal_is_read_as_it_was_written_and_belongs_to_weights_and_writing(tmp_path):
    one, made = judge(), prepared()
    vector = np.linspace(-2.5, 0.1, one.model.config.width, dtype=np.float32)
    aim = goal.Goal(vector, "w", 7, goal.writing(made))
    with pytest.raises(ValueError, match="states of"):
        dataclasses.replace(aim, vector=vector[1:]).check(one, made)
    aim.save(tmp_path / "goal.json")
    again = goal.Goal.load(tmp_path / "goal.json")
    np.testing.assert_array_equal(again.vector, aim.vector)
    assert (again.weights, again.answers, again.writing) == (aim.weights, aim.answers, aim.writing)
    again.check(one, made)
    with pytest.raises(ValueError, match="other weights than those of judge"):
        goal.along(judge("others"), made, again, rows=ROWS, quiet=True)
    other = dataclasses.replace(made, meta={**made.meta, "template": "chatml"})
    with pytest.raises(ValueError, match="'template': 'plain'.*is written with.*'template': 'chatml'"):
        again.check(one, other)


OF_GOAL = '"weights": "w", "answers": 1, "writing": {}'
NO_GOALS = ["{}", "[1]", "no json", '{"version": 1, "vector": [1.0], "colour": 2}']


@pytest.mark.parametrize("text", [*NO_GOALS, *(f'{{"version": 1, "vector": {x}, {OF_GOAL}}}' for x in ("[NaN]", "5", '["a"]'))])
def test_what_is_no_goal_is_refused_by_its_file(tmp_path, text):
    (tmp_path / "goal.json").write_text(text)
    with pytest.raises(ValueError, match=r"goal\.json is no goal of a reward model"):
        goal.Goal.load(tmp_path / "goal.json")


def test_a_set_without_good_answers_and_a_model_without_a_head_are_refused():
    one, made = judge(), prepared()
    bad = dataclasses.replace(made.groups, paired=np.zeros(6, bool), reward=np.zeros_like(made.groups.reward))
    with pytest.raises(ValueError, match="no good answer"):
        goal.of_answers(one, dataclasses.replace(made, groups=bad), rows=ROWS, quiet=True)
    plain = scorer.of_model("plain", toys.model(), toys.place_params(toys.params(0)), weights="w", dtype=jnp.float32, attention="xla")
    aim = goal.Goal(np.ones(toys.CONFIG.width, np.float32), "w", 1, goal.writing(made))
    with pytest.raises(ValueError, match="plain has no reward head on hidden states"):
        goal.along(plain, made, aim, rows=ROWS, quiet=True)


def test_the_goal_of_several_sets_is_that_of_all_their_answers():
    one = goal.Goal(np.array([1.0, 0.0], np.float32), "w", 1, {"template": "plain"})
    other = dataclasses.replace(one, vector=np.array([0.0, 2.0], np.float32), answers=3)
    both = goal.joined([one, other])
    np.testing.assert_allclose(both.vector, [0.25, 1.5])
    assert (both.answers, both.weights, both.writing) == (4, "w", one.writing)
    for different in (dataclasses.replace(one, weights="v"), dataclasses.replace(one, writing={"template": "hh"})):
        with pytest.raises(ValueError, match="different weights, or to text that is written differently"):
            goal.joined([one, different])
    with pytest.raises(ValueError, match="no set of answers"):
        goal.joined([])

"""The source of rollouts: windows of the policy at their first step, batches visited so often, continued in between; a fake speaker."""

import dataclasses
import functools
from types import SimpleNamespace

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign.data.rows import loader
from jaxalign.rollout import computed, source
from jaxalign.rollout.feedback import labels
from jaxalign.rollout.layout import Layout
from jaxalign.rollout.window import Window
from jaxalign.training.step import make_rollout_look
from jaxalign.types import Outputs, TrainState, sum_responses

LAYOUT = Layout(
    rows=2, row_tokens=16, prompts=2, responses=2, paired=False, share_prompt=True, mismatched=False, columns=(), computed=("own",),
    token_columns=("seen",),
)  # fmt: skip
STEPS = 12


@pytest.fixture(autouse=True)
def on_one_device():
    with jax.set_mesh(toys.mesh()):
        yield


class Spoken:
    """In the place of a model and its rewards: the policy's number and the batch's number are the text."""

    def draw(self, params, numbers, *, step):
        return Window({number: said(int(params), number) for number in numbers}, {"rollout/reward": float(step)}, [f"at {step}"])


@functools.cache
def said(policy, number):
    texts = [[[1 + policy], [2 + number, 3]], [[4], [5]]]
    return LAYOUT.arrays([[7, 8], [9, 10]], texts, labels(np.array([[0.0, 1.0], [2.0, 2.0]])), {}, rows=slice(None), seed=0)


def look(state, batch):
    """In the place of log-probs the steps that the policy has done; a KL of 1 for the response 0 and of 3 for the response 1."""
    return {"seen": state.step + 0.0 * batch.tokens, "own": 1.0 * batch.valid}, jnp.broadcast_to(jnp.array([1.0, 3.0]), batch.valid.shape)


def rollouts(start, **options):
    dataset = grain.MapDataset.range(STEPS).map(lambda step: LAYOUT.empty(2))
    options = {"every": 4, "epochs": 2, "share": (1.0, None), "steps": 8, "seed": 0, "look": look, **options}
    return source.Rollouts(dataset, start, windows=Spoken(), speaker=lambda state: state.step, **options)


def begun(batches=2):
    return TrainState(jnp.int32(0), {}, None, (), jnp.zeros(2, jnp.uint32), source=source.Rollouts.carried(LAYOUT, batches))


def visited(made, state, steps):
    """(state, [(tokens, column, news, this host's arrays) of each step])."""
    found = []
    for step in steps:
        state, arrays, batch = made.next(state.replace(step=jnp.int32(step)), step)
        found.append((np.asarray(batch.tokens), batch.columns.get("seen"), made.news(), arrays))
    return state, found


def test_batches_of_a_window_are_of_the_policy_at_its_first_step_and_come_so_often():
    _, found = visited(rollouts(0), begun(), range(8))
    for step, (tokens, seen, _, arrays) in enumerate(found):
        window, entry = step // 4, step % 2
        np.testing.assert_array_equal(tokens, said(window * 4, window * 2 + entry)["tokens"])
        np.testing.assert_array_equal(arrays["tokens"], tokens)
        assert (seen == window * 4).all()


def test_a_batch_says_whether_it_is_visited_for_the_first_time_also_where_a_run_is_continued():
    def visits(made, state, steps):
        found = []
        for step in steps:
            state, _, batch = made.next(state.replace(step=jnp.int32(step)), step)
            found.append(np.unique(batch.columns["first_visit"]).tolist())
        return state, found

    state, found = visits(rollouts(0), begun(), range(5))
    assert found == [[1.0], [1.0], [0.0], [0.0], [1.0]]
    assert visits(rollouts(5), state, range(5, 8))[1] == [[1.0], [0.0], [0.0]]


@pytest.mark.parametrize("steps", [5, 8])
def test_the_last_window_is_whole_so_that_a_longer_run_goes_on_with_it(steps):
    state, _ = visited(rollouts(0, steps=steps), begun(), range(5))
    _, found = visited(rollouts(5, steps=8), state, range(5, 8))
    for step, (tokens, seen, *_) in enumerate(found, 5):
        np.testing.assert_array_equal(tokens, said(4, 2 + step % 2)["tokens"])
        assert (seen == 4).all()


def test_the_first_step_of_a_window_has_its_news_with_the_kl_of_what_is_trained():
    _, found = visited(rollouts(0), begun(), range(5))
    assert [bool(news[0]) for *_, news, _ in found] == [True, False, False, False, True]
    assert found[4][2] == ({"rollout/reward": 4.0, "rollout/kl": 2.0}, ["at 4"])  # the tied prompt has no weight


def test_a_window_in_which_nothing_is_trained_has_no_kl_that_would_make_its_policy_a_good_one():
    collapsed = LAYOUT.arrays([[7], [9]], [[[1], [1]], [[1], [1]]], labels(np.ones((2, 2))), {}, rows=slice(None), seed=0)
    assert not collapsed["valid"].any()
    made = source.Rollouts(
        None,
        0,
        windows=SimpleNamespace(draw=lambda *_, **__: Window({0: collapsed}, {}, [])),
        speaker=lambda state: None,
        look=look,
        every=1,
        epochs=1,
        share=(1.0, None),
        steps=1,
        seed=0,
    )
    made.next(begun(1), 0)
    assert "rollout/kl" not in made.news()[0]


@pytest.mark.parametrize("stopped", [1, 2, 3, 4, 7])
def test_a_run_that_is_continued_in_a_window_goes_on_with_what_the_state_carries(stopped):
    state, first = visited(rollouts(0), begun(), range(stopped))
    kept = jax.tree.map(jnp.copy, state)
    _, whole = visited(rollouts(0), begun(), range(8))
    _, rest = visited(rollouts(stopped), kept, range(stopped, 8))
    for (tokens, seen, news, arrays), (other, column, told, here) in zip(first + rest, whole, strict=True):
        np.testing.assert_array_equal(tokens, other)
        np.testing.assert_array_equal(seen, column)
        assert news == told and loader.counts(arrays) == loader.counts(here)


def test_a_share_of_the_steps_takes_the_rows_of_the_data_whichever_is_asked_for_first():
    options = {"epochs": 1, "share": (0.5, None)}
    _, found = visited(rollouts(0, **options), begun(4), range(STEPS))
    drawn = [seen is not None for _, seen, *_ in found]
    assert 0 < sum(drawn) < STEPS
    for step, (tokens, *_) in enumerate(found):
        np.testing.assert_array_equal(tokens, said(step // 4 * 4, step)["tokens"] if drawn[step] else 0)
    _, again = visited(rollouts(4, **options), begun(4), range(4, STEPS))
    assert [seen is not None for _, seen, *_ in again] == drawn[4:]


def test_a_share_goes_from_its_first_to_its_last_value_in_a_line():
    made = rollouts(0, share=(1.0, 0.0), steps=1001)
    drawn = np.array([made._is_rollout(step) for step in range(1001)])
    assert drawn[0] and not drawn[-1]
    np.testing.assert_allclose([part.mean() for part in np.array_split(drawn, 4)], [0.875, 0.625, 0.375, 0.125], atol=0.09)


def test_a_window_without_a_rollout_draws_nothing():
    made = rollouts(0, epochs=1, share=(1e-9, None))
    state, found = visited(made, begun(4), range(4))
    assert all(news == ({}, []) for *_, news, _ in found) and not (state.source["tokens"] > 0).any()


@pytest.mark.parametrize(("share", "epochs"), [(1.0, 2), (0.6, 1)])
def test_advantages_are_whitened_over_all_tokens_of_a_window_and_of_no_other(share, epochs):
    layout = dataclasses.replace(LAYOUT, computed=(), token_columns=("token_advantage",))

    def raw(state, batch):
        return {"token_advantage": state.step + 1.0 * batch.tokens}, None

    made = rollouts(0, seed=3, share=(share, None), epochs=epochs, look=raw, finish=computed.whitened)
    state, windows = begun().replace(source=source.Rollouts.carried(layout, 4 // epochs)), {0: [], 4: []}
    for step in range(8):
        state, arrays, batch = made.next(state.replace(step=jnp.int32(step)), step)
        if "token_advantage" in batch.columns and step % 4 < 4 // epochs:  # each batch once
            trained = (arrays["slots"] >= 0) & arrays["valid"][:, :1]
            found = np.asarray(batch.columns["token_advantage"])
            windows[step // 4 * 4].append((arrays["tokens"][trained], found[trained]))
            assert not found[~trained].any()
    for batches in windows.values():
        given, found = (np.concatenate(each) for each in zip(*batches, strict=True))
        assert len(batches) > 1
        np.testing.assert_allclose(found, (given - given.mean()) / given.std(ddof=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_kl_is_to_the_initial_reference_where_one_is_kept_and_advantages_are_to_the_one_that_moved(parts):
    seen = []

    def forward(value, batch, step):
        seen.append(len(batch.tokens))
        return Outputs(value + 0.0 * batch.tokens)

    def difference(policy, reference, batch):
        return policy.logps - reference.logps

    def compute(policy, reference, batch, statistics):
        return {"own": difference(policy, reference, batch), "tokens": 1 * batch.tokens}

    made = make_rollout_look(forward, difference, compute, microbatches=parts)
    batch = loader.to_device(said(0, 0))
    tokens = sum_responses(jnp.ones(batch.tokens.shape), batch)
    state = TrainState(jnp.int32(0), jnp.float32(5.0), jnp.float32(4.0), (), jnp.zeros(2, jnp.uint32))
    for initial, distance in ((None, 1.0), (jnp.float32(2.0), 3.0)):
        columns, kl = made(state.replace(initial=initial), batch)
        np.testing.assert_array_equal(kl, distance * tokens)
        assert (columns["own"] == 1).all() and (columns["rollout_logps"] == 5).all()
        np.testing.assert_array_equal(columns["tokens"], batch.tokens)
    assert set(seen) == {len(batch.tokens) // parts}

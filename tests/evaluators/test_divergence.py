"""KL over whole answers: against the sum over all answers, and whatever the layout of the rows."""

import jax
import jax.numpy as jnp
import light
import numpy as np
import pytest
import toys

from jaxalign.data.rows import loader, memory
from jaxalign.evaluators.divergence import Divergence
from jaxalign.types import TrainState, sum_responses

PROMPT = [5, 9, 3]
ROWS = 8


@pytest.fixture(autouse=True, scope="module")
def on_one_device():
    with jax.set_mesh(toys.mesh()):
        yield


@pytest.fixture(scope="module")
def state():
    return TrainState(jnp.int32(0), light.params(0), light.params(1), None, None)


@pytest.fixture(scope="module")
def divergence():
    def look(params, batch, step):
        outputs = light.next_token(params, batch, step)
        return outputs.replace(hidden=3 * outputs.hidden)  # light multiplies its logits by 3

    return Divergence(look, rows=ROWS)


@pytest.fixture(scope="module")
def by_first(divergence, state):
    """The measured KL of answers of two tokens, for every first token: float64[V]."""
    answers = [[[token, 0]] for token in range(light.VOCAB)]
    sums, weights = divergence.measure(state, [PROMPT] * light.VOCAB, answers, longest=2)
    assert (weights == 1).all()
    return sums


@jax.jit
def summed(params, batch):
    return sum_responses(light.next_token(params, batch, 0).logps, batch)


def all_logps(params):
    """log p of every answer of two tokens: float64[V, V]."""
    answers = [[a, b] for a in range(light.VOCAB) for b in range(light.VOCAB)]
    data = memory.prepared([(PROMPT, [answer]) for answer in answers], row_tokens=64, max_groups=12, name="all")
    found = np.zeros(len(answers))
    for number, arrays in enumerate(loader.eval_batches(data, rows=128)):
        places = data.plan[number * 128 : (number + 1) * 128].ravel()
        found[places[places >= 0]] = np.asarray(summed(params, loader.to_device(arrays)))[: len(places), 0][places >= 0]
    return found.reshape(light.VOCAB, light.VOCAB)


def test_the_mean_over_own_answers_is_the_kl_of_whole_answers(by_first, state):
    policy, reference = all_logps(state.trainable), all_logps(state.reference)
    exact = (np.exp(policy) * (policy - reference)).sum()
    assert np.exp(policy).sum() == pytest.approx(1, abs=1e-4) and exact > 0.1
    assert (np.exp(policy).sum(1) * by_first).sum() == pytest.approx(exact, rel=1e-3)


def test_answers_are_added_up_by_prompt_whatever_their_order_and_length(divergence, state, by_first):
    prompts, answers = [PROMPT, [2] * 9, PROMPT], [[[7, 0], [1, 2, 3]], [[4], [5, 6]], [[1, 2, 3], [7, 0]]]
    sums, weights = divergence.measure(state, prompts, answers, longest=3)
    assert sums[0] == pytest.approx(sums[2], rel=1e-5) and (weights == 2).all()
    alone, _ = divergence.measure(state, [PROMPT], [[[1, 2, 3]]], longest=3)
    assert sums[0] == pytest.approx(by_first[7] + alone[0], rel=1e-4)


def test_a_policy_does_not_diverge_from_itself(divergence, state):
    sums, _ = divergence.measure(state.replace(reference=state.trainable), [PROMPT], [[[7, 0]]], longest=2)
    assert sums[0] == pytest.approx(0, abs=1e-5)


def test_groups_in_memory_are_the_pieces_that_were_given():
    groups = [([1, 2], [[3], [4, 5, 6]]), ([7], [[8]]), ([9, 10, 11], [[12, 13], [14]])]
    data = memory.prepared(groups, row_tokens=16, max_groups=3, rewards=np.array([[0, 1], [1, 0], [0, 1]]), name="x")
    for g, (prompt, responses) in enumerate(groups):
        pieces = [data.groups.piece(g, k) for k in range(3)]
        assert [piece.tolist() for piece, _ in pieces] == [prompt, *responses, *[[]] * (2 - len(responses))]
        assert [set(scored.tolist()) for _, scored in pieces] == [{0}, *({1} for _ in responses), *[set()] * (2 - len(responses))]
    assert data.groups.valid.tolist() == [[True, True], [True, False], [True, True]] and data.plan.shape[1] == 3
    with pytest.raises(ValueError, match="no group"):
        memory.prepared([], row_tokens=16, max_groups=3, name="x")

"""What every file in objectives/ promises of its numbers, seen on outputs alone. Like test_contract, it picks the files up by itself."""

import functools

import jax
import jax.numpy as jnp
import light
import numpy as np
import pytest
import toys

from jaxalign import objectives
from jaxalign.data.rows import pack

LN_2 = np.log(2.0)
# Loss of every judgement where policy and reference are equal, from the specs of the methods; the others depend on the text.
AT_STEP_0 = {
    "dpo": LN_2, "cdpo": LN_2, "rdpo": LN_2, "dpo_norm": LN_2, "dpop": LN_2, "hinge": 1.0, "nca": 2 * LN_2, "bco": LN_2,
    "ipo": 1 / (4 * 0.1**2), "apo_zero": 1.0, "apo_down": 1.0, "kto": 0.5, "kto_pair": 0.5, "sppo": 2 * (0.5 / 0.001) ** 2,
}  # fmt: skip
PLAN = np.arange(6, dtype=np.int32).reshape(3, 2)
files = pytest.mark.parametrize("name", toys.OBJECTIVES)


@pytest.fixture(autouse=True)
def on_one_device():
    with jax.set_mesh(toys.mesh()):
        yield


@functools.cache
def arrays():
    return pack.assemble(toys.groups(6, seed=4), PLAN, row_tokens=80, share_prompt=True)


@functools.cache
def seen():
    """(policy, reference, batch): outputs of two small models."""
    batch = toys.place(arrays())
    return light.two_pass(light.params(0), batch, jnp.int32(0)), light.next_token(light.params(1), batch, jnp.int32(0)), batch


def terms_of(name, policy, reference, batch):
    """The terms of an objective with its defaults, and its statistics made of this batch."""
    bound = objectives.bind(name)
    sums = {key: (jnp.sum(value * weight), jnp.sum(weight)) for key, (value, weight) in bound.statistics(policy, reference, batch).items()}
    current = jax.lax.stop_gradient({key: value / jnp.maximum(weight, 1.0) for key, (value, weight) in sums.items()})
    known = bound.carry({key: jnp.zeros(()) for key in current}, current, jnp.int32(0))
    return bound.terms(policy, reference if "reference" in objectives.bind(name).reads else None, batch, known)


def loss_of(name, policy, reference, batch):
    terms = terms_of(name, policy, reference, batch)
    return jnp.sum(jnp.where(terms.weight > 0, terms.loss, 0.0) * terms.weight)


@files
def test_no_gradient_reaches_the_reference_the_rewards_or_the_columns_and_rewards_matter_where_they_are_read(name):
    policy, reference, batch = seen()

    def loss(policy, reference, reward, columns):
        return loss_of(name, policy, reference, batch.replace(reward=reward, columns=columns))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3), allow_int=True))
    to_policy, *others = gradient(policy, reference, batch.reward, batch.columns)
    assert any(map(np.any, read_of(to_policy)))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(others))
    otherwise, *_ = gradient(policy, reference, 1 - batch.reward, batch.columns)
    matter = not all(map(np.array_equal, read_of(to_policy), read_of(otherwise)))
    declared = bool({"rewards", "ranked"} & {*objectives.bind(name).reads})
    assert declared == matter, f"{name}: rewards change its gradient ({matter}), and its REQUIRES must say 'rewards' exactly then"


def read_of(outputs):
    heads = outputs.prompt_values, outputs.rewards, outputs.features.members, outputs.values
    return outputs.logps, outputs.hidden, *heads


@pytest.mark.parametrize("name", sorted(AT_STEP_0))
def test_the_loss_has_its_known_value_where_policy_and_reference_are_equal(name):
    _, reference, batch = seen()
    loss, weight = jax.device_get([(terms := terms_of(name, reference, reference, batch)).loss, terms.weight])
    assert (weight > 0).sum() >= 3
    np.testing.assert_allclose(loss[weight > 0], AT_STEP_0[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        (name, key.removeprefix("columns."))
        for name in toys.OBJECTIVES
        for key in objectives.bind(name).reads
        if key.startswith("columns.") or key == "mismatched"
    ],
)
def test_a_missing_column_is_refused_with_the_way_to_one(name, column):
    policy, reference, batch = seen()
    others = {key: value for key, value in batch.columns.items() if key != column}
    with pytest.raises(ValueError, match=rf"reads column '{column}' but the batch has \(.*data.computed.*keep_columns"):
        terms_of(name, policy, reference, batch.replace(columns=others))


@pytest.mark.parametrize(("name", "column"), [(name, column) for name in toys.OBJECTIVES for column in objectives.bind(name).token_columns])
def test_a_missing_column_of_tokens_is_refused_with_the_way_to_one(name, column):
    policy, reference, batch = seen()
    others = {key: value for key, value in batch.columns.items() if key != column}
    with pytest.raises(ValueError, match=rf"reads the column of tokens '{column}' but the batch has \(.*set data.rollout"):
        terms_of(name, policy, reference, batch.replace(columns=others))


@files
def test_what_an_objective_reads_is_known(name):
    assert all(key in objectives.READS or key.startswith(("columns.", "token_columns.")) for key in objectives.bind(name).reads)


def loss(policy, reference, batch, *, beta=0.1):
    """An objective like those of the files, but for its name."""


def bare(policy, reference, batch, beta=0.1):
    """One whose option is not keyword-only."""


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"REQUIRES": ()}, r"mine.py has no function 'mine'; .* called like its file"),
        ({"mine": loss}, r"'mine' has REQUIRES=None; give a tuple, \(\) or some of paired"),
        ({"mine": loss, "REQUIRES": "paired"}, "'mine' has REQUIRES='paired'; give a tuple"),
        ({"mine": loss, "REQUIRES": ("pairs",)}, "REQUIRES of objective 'mine' has 'pairs'; there are paired, unpaired"),
        ({"mine": bare, "REQUIRES": ()}, r"\(policy, reference, batch, beta\) by position .* write \* before hyper-parameters"),
        ({"mine": loss, "REQUIRES": (), "statistics": loss}, r"where it gets \(policy, reference, batch, statistics\)"),
    ],
)
def test_a_file_that_holds_no_objective_is_refused_with_the_way_out(parts, words):
    with pytest.raises(ValueError, match=words):
        objectives.check("mine", parts)


def test_a_computed_column_may_have_any_name_where_it_is_named_as_a_column():
    objectives.check("mine", {"mine": loss, "REQUIRES": ("columns.cost",)})
    with pytest.raises(ValueError, match="REQUIRES of objective 'mine' has 'cost'"):
        objectives.check("mine", {"mine": loss, "REQUIRES": ("cost",)})


def test_statistics_get_the_hyper_parameters_that_they_name_with_the_defaults_of_the_objective():
    policy, reference, batch = seen()
    given, default = (objectives.bind("bco", **hparams).statistics(policy, reference, batch) for hparams in ({"beta": 0.03}, {}))
    np.testing.assert_allclose(given["rewards"][0], 3 * default["rewards"][0], rtol=1e-6)  # bco's own beta is 0.01
    carried = objectives.bind("bco").carry({"seen": 0.0}, {"seen": 1.0}, 0)
    assert carried["seen"] == pytest.approx(0.1)  # its own decay is 0.9


@files
def test_terms_fit_the_batch_and_metrics_their_weights(name):
    policy, reference, batch = seen()
    terms = jax.eval_shape(functools.partial(terms_of, name), policy, reference, batch)
    count = batch.valid.shape[0]
    assert terms.loss.shape == terms.weight.shape and terms.loss.shape in [(count,), batch.valid.shape, batch.tokens.shape]
    assert all(value.shape == weight.shape for value, weight in terms.metrics.values())

"""Tokens of a row on several devices: losses, everything that they read of a model, and all gradients are those of one device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign import objectives, sharding
from jaxalign.config.mesh_rules import AXES
from jaxalign.data.rows import pack
from jaxalign.lm_head import distributions, entropy
from jaxalign.models import model as models
from jaxalign.models.heads import ValueHeadConfig
from jaxalign.training import forward, step
from jaxalign.types import Outputs, sum_responses

FAMILIES = ("alol_kl", "dpo", "goal_reward", "ift", "kto", "ppo", "reward", "una")
CONFIG = dataclasses.replace(toys.CONFIG, windows=(7, 0))
PLAN = np.array([[0, 1], [2, -1], [3, 4], [-1, 5]], np.int32)


@functools.cache
def arrays():
    return pack.assemble(toys.groups(6, seed=3), PLAN, row_tokens=80, share_prompt=True)


@functools.cache
def built():
    return models.build(CONFIG, ValueHeadConfig(heads=4), "linear", critic="linear")


def losses(policy, reference, batch):
    """The sum of the loss of an objective of each family, which all read the same outputs: name -> number."""
    found = {}
    for name in FAMILIES:
        bound = objectives.bind(name)
        before = dict.fromkeys(bound.statistics_names, jnp.zeros(()))
        known = bound.carry(before, step._means(step._sums_of_statistics(bound, policy, reference, batch)), jnp.int32(3))
        terms = bound.terms(policy, reference, batch, known)
        found[name] = step._weighted_sum(terms.loss, terms.weight)[0]
    return found


@functools.cache
def compiled():
    def run(params, head, batch, constant):
        scored, options = batch.slots >= 0, {"dtype": jnp.float32, "remat": "none", "attention": "xla"}

        def total(params):
            policy = forward.next_token(built(), params, batch, jnp.int32(3), **options)
            vocabulary = {"vocab_size": CONFIG.vocab_size}
            policy = policy.replace(greedy=distributions.token_argmax(policy.hidden, policy.unembed, scored, **vocabulary))
            read = {name: getattr(policy, name) for name in ("logps", "greedy", "prompt_values", "rewards", "values")}
            sides = (policy.hidden, policy.unembed), (jnp.sin(jax.lax.stop_gradient(policy.hidden)), head)
            read["entropy"] = entropy.token_entropy(*sides[0], scored, **vocabulary)
            found = losses(policy, Outputs(constant, *sides[1], **vocabulary), batch)
            found["entropy"] = sum_responses(read["entropy"], batch).sum()
            return sum(found.values()), (found, read)

        return jax.grad(total, has_aux=True)(params)

    return jax.jit(run)


@functools.cache
def measured(sizes):
    """(gradient, (losses, what they read)) on a mesh of these sizes of data, fsdp, tensor and context."""
    draw = np.random.default_rng(9)
    with jax.set_mesh(toys.mesh(sizes)):
        params = jax.tree.map(lambda shape: 0.3 * draw.standard_normal(shape.shape).astype(np.float32), built().shapes)
        params = jax.tree.map(lambda x, partition: jax.device_put(x, sharding.named(partition)), params, models.shardings(built()))
        head = jax.device_put(toys.params(1)["embed"]["tokens"], sharding.named(sharding.spec("vocab", "embed")))
        batch = toys.place(arrays())
        constant = jnp.where(batch.slots >= 0, jnp.sin(batch.tokens) - 4, 0.0)
        return jax.device_get(compiled()(params, head, batch, constant))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 1, 1, 4), (1, 2, 2, 2)], ids=str)
def test_losses_and_gradients_are_those_of_whole_rows(sizes):
    for (path, right), array in zip(
        jax.tree_util.tree_leaves_with_path(measured((1, 1, 1))), jax.tree.leaves(measured(sizes)), strict=True
    ):
        np.testing.assert_allclose(array, right, rtol=1e-5, atol=1e-5 * np.abs(right).max(), err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(("hosts", "words"), [((0, 0, 1, 1), None), ((0, 1, 0, 1), "mesh.context=2 x mesh.tensor=1 = 2 devices .* 0, 1")])
def test_the_devices_of_a_row_lie_on_one_host(hosts, words):
    class Device:
        def __init__(self, host):
            self.process_index = host

    places = np.array([Device(host) for host in hosts]).reshape(1, 2, 1, 2, 1)

    class Mesh:
        shape, devices = dict(zip(sharding.MESH_AXES, places.shape, strict=True)), places

    if words is None:
        sharding.check_hosts(Mesh)
    else:
        with pytest.raises(ValueError, match=words):
            sharding.check_hosts(Mesh)


def test_the_axes_of_the_configuration_are_those_of_a_mesh():
    with sharding.shapes_only((2, 3, 5, 7, 11), "tpu"):
        assert tuple(sharding.mesh_shape()) == AXES and list(sharding.mesh_shape().values()) == [2, 15, 7, 11]


def test_rows_that_do_not_split_over_context_are_refused():
    with pytest.raises(ValueError, match="data.row_tokens=100 does not split over mesh.context=8; use a multiple of 8"):
        sharding.check_tokens(100, context=8)

"""What rests in the memory of the host: the same numbers, the memory that it lies in, and where it is refused."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys

from jaxalign import objectives, offload
from jaxalign.data.rows import pack
from jaxalign.training import reference, step
from jaxalign.training.layerwise import layer_by_layer
from jaxalign.types import Outputs

PLAN = np.arange(8, dtype=np.int32).reshape(4, 2)
PARTS = ("reference", "optimizer")


def batch():
    return toys.place(pack.assemble(toys.groups(8, 5), PLAN, row_tokens=64, share_prompt=True))


def test_whatever_reads_a_part_finds_it():
    """The reference of an evaluation and of a move, and the moments of an update: of layers, of a table and of a bias that stays."""

    def look(params, batch, step):
        layers = jax.tree.map(lambda x: x.sum(tuple(range(1, x.ndim))).sum(), offload.on_device(params["layers"]))
        values = params["table"].sum() + layers["kernel"] * layers["bias"]
        return Outputs(*(values * jnp.where(batch.slots >= 0, 0.1 * batch.tokens, 0.0),) * 3)

    bound, seen, rule = objectives.bind("dpo"), [], reference.RULES["soft"]
    eval_step = step.make_eval_step(look, bound, lambda policy, *_: policy.logps)
    with jax.set_mesh(toys.mesh()):
        for parts in ((), PARTS):
            optimizer = layer_by_layer(optax.adam(1e-2)) if parts else optax.adam(1e-2)
            weights = {"table": jnp.full((2, 3), 0.1), "layers": {"kernel": jnp.full((2, 3, 4), 0.01), "bias": jnp.full((2, 3), 0.1)}}
            state = step.init_state(weights, optimizer, rule=rule, seed=0, keep_initial=True, on_host=parts)
            train_step = step.make_train_step(look, bound, rule.bind(every_steps=1), optimizer, lambda step: 1e-2)
            for _ in range(2):
                state, metrics = train_step(state, batch())
            kinds = {x.sharding.memory_kind for x in jax.tree.leaves((state.reference, state.opt_state)) if x.size in (6, 24)}
            assert kinds == ({offload.KIND, "device"} if parts else {"device"})
            seen.append(jax.device_get((state, metrics, eval_step(state, batch()))))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, *seen)))
    assert seen[0][1]["loss"] > 0 and not np.array_equal(seen[0][0].trainable["table"], np.full((2, 3), 0.1, np.float32))


@pytest.mark.slow
def test_a_step_of_a_decoder_leaves_matrices_on_the_host_and_compiles_once():
    seen = []
    with jax.set_mesh(toys.mesh((1, 2, 2))):
        for parts in ((), PARTS):
            optimizer = layer_by_layer(toys.keep_gradient()) if parts else toys.keep_gradient()
            train_step = toys.make_step("dpo", optimizer=optimizer)
            state = before = offload.place(toys.make_state("dpo", same=True, optimizer=optimizer), parts)
            for _ in range(2):
                state, metrics = train_step(state, batch())
            seen.append(jax.device_get((state, metrics)))
            assert train_step._cache_size() == 1  # what a step returns is laid out as what it took
    # as in one program a product and a sum may be rounded once, and in the other twice
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), *seen)
    assert all(x.is_deleted() for x in jax.tree.leaves((before.reference, before.opt_state)))
    kinds: dict[bool, set] = {}
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        rests = path[0].name in ("reference", "opt_state") and jax.tree_util.keystr(path).endswith(("kernel']", "tokens']"))
        kinds.setdefault(rests, set()).add(x.sharding.memory_kind)
    assert kinds == {True: {offload.KIND}, False: {"device"}}


def test_a_device_without_such_memory_is_refused():
    device = SimpleNamespace(device_kind="abacus", addressable_memories=lambda: [SimpleNamespace(kind="device")])
    offload.check((), device)
    with pytest.raises(ValueError, match=r"mesh.offload=\('optimizer',\) needs memory of kind 'pinned_host', and abacus has device"):
        offload.check(("optimizer",), device)

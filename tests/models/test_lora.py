"""Low-rank adapters: what they compute and learn, how they start, how they lie on a mesh, and what they become when they are merged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys

from jaxalign.data.rows import pack
from jaxalign.models import lora, merge
from jaxalign.models import model as models
from jaxalign.training import forward, reference, step

ALL = ["attention.q", "attention.k", "attention.v", "attention.output", "mlp.gate", "mlp.up", "mlp.down"]
OPTIONS = {"dtype": jnp.float32, "remat": "none", "attention": "xla"}
OBJECTIVE = toys.jaxalign.objectives.bind("dpo")


@functools.cache
def adapted(**options):
    return models.build(toys.CONFIG, lora=lora.LoraConfig(**{"rank": 3, "alpha": 2.0, **options}))


def params(model, seed=0, *, fresh=False):
    """Random parameters on the mesh in scope; fresh adapters as they are drawn, others random in both factors."""
    draw = np.random.default_rng(seed)
    base = toys.place_params(toys.params(seed))
    if fresh:
        return {**base, **models.init_heads(model, jax.random.key(seed))}
    place = models.shardings(model)[models.LORA]
    values = jax.tree.map(lambda shape: (0.3 * draw.standard_normal(shape.shape)).astype(np.float32), model.shapes[models.LORA])
    return {**base, models.LORA: jax.tree.map(lambda x, p: jax.device_put(x, toys.sharding.named(p)), values, place)}


@functools.cache
def batch_arrays():
    plan = np.array([[0, 1], [2, -1], [3, 4], [-1, 5]], np.int32)
    return pack.assemble(toys.groups(6, seed=3), plan, row_tokens=80, share_prompt=True)


def loss(model, params, batch):
    policy = forward.next_token(model, params, batch, jnp.int32(0), **OPTIONS)
    return jnp.sum(jnp.sin(policy.logps))


def make_step(model, rule="frozen", every=1):
    look = functools.partial(forward.next_token, model, **OPTIONS)
    moves = reference.RULES[rule].bind(**({"every_steps": every} if reference.RULES[rule].moves else {}))
    return step.make_train_step(look, OBJECTIVE, moves, toys.keep_gradient(), optax.constant_schedule(0.1))


def begin(params, rule="frozen", silent=(models.LORA,), **options):
    return step.init_state(
        params, toys.keep_gradient(), rule=reference.RULES[rule], seed=0, trained=(models.LORA,), silent=silent, **options
    )


@pytest.mark.slow
def test_the_gradient_is_that_of_a_merged_model_by_the_chain_rule():
    model = adapted()
    with jax.set_mesh(toys.mesh()):
        start, batch = params(model), toys.place(batch_arrays())
        plain, whole = merge.merged(model, start)
        rest = lora.off(start)
        of_adapters = jax.jit(jax.value_and_grad(lambda adapters: loss(model, {**rest, models.LORA: adapters}, batch)))
        value, ours = of_adapters(start[models.LORA])
        dense_value, dense = jax.jit(jax.value_and_grad(lambda whole: loss(plain, whole, batch)))(whole)
    np.testing.assert_allclose(value, dense_value, rtol=1e-5)
    for name in ALL:
        part, which = name.split(".")
        a, b = (np.asarray(start[models.LORA]["layers"][part][which][key], np.float64) for key in "ab")
        d = np.asarray(dense["layers"][part][which]["kernel"], np.float64)
        flat = d.reshape(len(d), np.prod(a.shape[1:-1]), -1)
        for key, wanted in (
            ("a", np.einsum("lio,lro->lir", flat, b.reshape(*b.shape[:2], -1)).reshape(a.shape)),
            ("b", np.einsum("lio,lir->lro", flat, a.reshape(len(a), -1, a.shape[-1])).reshape(b.shape)),
        ):
            gradient, wanted = np.asarray(ours["layers"][part][which][key]), wanted * model.lora.scale
            np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max(), err_msg=f"{name} {key}")


@pytest.mark.slow
def test_a_fresh_adapter_changes_nothing_and_its_first_step_moves_every_map_on_any_order_of_devices():
    model = adapted()
    with jax.set_mesh(toys.mesh()):
        state = begin(params(model, fresh=True), "hard", keep_initial=True)
        assert state.initial == {}
        train_step = make_step(model, "hard")
        state, _ = train_step(state, toys.place(batch_arrays()))
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.reference), jax.device_get(state.trainable))
        expected = jax.device_get(state.trainable)
        begun = begin(params(model), "hard", silent=())  # such as go on: the reference has them too
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(begun.reference), jax.device_get(begun.trainable))
        state, metrics = train_step(begun.replace(initial={}), toys.place(batch_arrays()))
        assert abs(metrics["rewards/chosen"]) < 1e-6 > abs(metrics["rewards/rejected"])  # two forward passes in one program
        np.testing.assert_allclose(metrics["loss"], np.log(2), rtol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.reference), jax.device_get(state.trainable))
    with jax.set_mesh(toys.sharding.make_mesh(2, 2, 2, devices=jax.devices()[::-1])):
        state = begin(params(model, fresh=True))
        assert state.reference == {}  # the base with the adapter off: nothing is held
        kept = jax.device_get(state.frozen)
        state, metrics = make_step(model)(state, toys.place(batch_arrays()))
        assert float(metrics["rewards/chosen"]) == float(metrics["rewards/rejected"]) == 0.0
        np.testing.assert_allclose(metrics["loss"], np.log(2), rtol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, kept, jax.device_get(state.frozen))
        assert jax.tree.structure(state.opt_state[0].trace) == jax.tree.structure(state.trainable)  # and none for the base
    for (path, one), other in zip(jax.tree.leaves_with_path(jax.device_get(state.trainable)), jax.tree.leaves(expected), strict=True):
        assert all(np.abs(layer).max() > 0 for layer in one), path
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_adapters_are_split_as_their_kernels_are():
    model = adapted()
    with jax.set_mesh(toys.mesh((2, 2, 2))):
        places = models.shardings(model)
        down, q = places[models.LORA]["layers"]["mlp"]["down"], places[models.LORA]["layers"]["attention"]["q"]
    assert (tuple(down["a"]), tuple(down["b"])) == ((None, "tensor", None), (None, None, "fsdp"))
    assert (tuple(q["a"]), tuple(q["b"])) == ((None, "fsdp", None), (None, None, "tensor", None))


@pytest.mark.parametrize(
    ("targets", "maps"),
    [(("*",), ALL), (("q", "v"), ["attention.q", "attention.v"]), (("attention.*",), ALL[:4]), (("mlp.d*", "k"), [ALL[1], ALL[6]])],
)
def test_targets_are_patterns_of_linear_maps(targets, maps):
    adapters = adapted(targets=targets).shapes[models.LORA]["layers"]
    assert {f"{part}.{name}" for part, below in adapters.items() for name in below} == set(maps)


def test_a_target_that_is_no_map_is_met_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"'q_proj' is no linear map of this model; there are attention.k, .*, and '\*' is all"):
        adapted(targets=("v", "q_proj"))


def test_the_scale_is_alpha_over_the_rank_or_its_root():
    assert adapted(rank=4, alpha=8.0).lora.scale == 2.0
    assert adapted(rank=4, alpha=8.0, rank_stabilised=True).lora.scale == 4.0


@pytest.mark.slow
def test_a_base_in_bfloat16_is_stored_so_and_its_norms_biases_and_adapters_are_not():
    model = models.build(toys.CONFIG, lora=toys.LORA, base_dtype="bfloat16")
    with jax.set_mesh(toys.mesh((1, 4, 2))):
        drawn = models.init(model, jax.random.key(0))
    kinds = {(path[-1].key, str(leaf.dtype)) for path, leaf in jax.tree.leaves_with_path(drawn)}
    narrow = {("kernel", "bfloat16"), ("tokens", "bfloat16")}
    assert kinds == narrow | {(name, "float32") for name in ("scale", "bias", "a", "b")}
    stds = {name: float(jnp.std(drawn["layers"]["mlp"][name]["kernel"].astype(jnp.float32))) for name in ("up", "down")}
    assert all(abs(std / toys.CONFIG.init_std - 1) < 0.05 for std in stds.values())
    assert not np.array_equal(*(np.asarray(drawn["layers"]["mlp"]["up"]["kernel"][i], np.float32) for i in (0, 1)))


@pytest.mark.slow
def test_a_merged_model_gives_the_log_probs_of_the_adapted_one_on_a_mesh():
    model = adapted()
    with jax.set_mesh(toys.mesh((2, 2, 2))):
        start, batch = params(model), toys.place(batch_arrays())
        plain, whole = merge.merged(model, start)

        def logps(of, values):
            return jax.jit(lambda values: forward.next_token(of, values, batch, jnp.int32(0), **OPTIONS).logps)(values)

        ours, merged, off = logps(model, start), logps(plain, whole), logps(model, lora.off(start))
        assert jax.tree.map(lambda x: x.sharding.spec, whole) == models.shardings(plain)
    np.testing.assert_allclose(ours, merged, rtol=2e-4, atol=2e-4)
    assert np.abs(np.asarray(off) - np.asarray(ours)).max() > 0.1

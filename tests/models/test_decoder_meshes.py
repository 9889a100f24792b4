"""Every mesh shape gives the same random weights, values and gradients, and keeps weights and gradients in their shards."""

import collections
import functools

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import sharding
from jaxalign.hf import names
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig
from jaxalign.planning import program

SIZES = dict(vocab_size=500, width=64, layers=2, heads=8, kv_heads=4, head_dim=8, mlp_width=96, max_positions=64, init_std=0.1)
KINDS = {  # two models that have every part of the decoder between them
    "rotary": dict(family="gemma3", windows=(4, 0), local_rope_theta=100.0, qk_norm=True, post_norms=True, norm_offset=True, tied=True),
    "learned": dict(
        family="gpt2", rotary_fraction=0.0, learned_positions=True, norm="layer", gated=False, parallel_residual=True, qkv_bias=True,
        output_bias=True, mlp_bias=True,
    ),
}  # fmt: skip
RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 500, (8, 12))
SEGMENTS = np.repeat([[1] * 5 + [2] * 5 + [0] * 2], 8, axis=0)
PREFIXES = np.repeat([[0] * 5 + [1] * 5 + [0] * 2], 8, axis=0)
POSITIONS = np.repeat([list(range(10)) + [0, 0]], 8, axis=0)


def _random_params(model):
    """Host parameters, all random: norms and biases too."""
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda shape: 0.2 * draw.standard_normal(shape.shape).astype(np.float32), model.shapes)


def _abstract_params(model):
    """Shapes with shardings, on the mesh in scope."""
    return jax.tree.map(
        lambda shape, partition: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding.named(partition)),
        model.shapes, models.shardings(model),
    )  # fmt: skip


def _run(kind, sizes, rows=8, length=12):
    """(loss, gradient) on the host; the gradient is checked to lie where its parameter lies."""
    model = models.build(ModelConfig(**{**SIZES, **KINDS[kind]}))
    devices = jax.devices()[: int(np.prod(sizes))]
    with jax.set_mesh(sharding.make_mesh(*sizes, devices=devices, torus=(2, 2, 2))):  # fsdp = 8 is 4 x 2 of its mesh axes
        params = jax.tree.map(lambda x, spec: jax.device_put(x, sharding.named(spec)), _random_params(model), models.shardings(model))
        inputs = checkpoints.rows(*(x[:rows, :length] for x in (TOKENS, POSITIONS, SEGMENTS, PREFIXES)))

        def loss(params):
            logps = jax.nn.log_softmax(checkpoints.logits(model, params, inputs))
            picked = (jax.nn.one_hot(jnp.roll(inputs[0], -1, 1), 500) * logps).sum(-1)
            return jnp.where(inputs[2] > 0, picked, 0).sum() / 80

        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
        assert jax.tree.map(lambda x: x.sharding.spec, gradient) == jax.tree.map(lambda x: x.sharding.spec, params)
    return jax.tree.map(np.asarray, (value, gradient))


_on_one_device = functools.cache(functools.partial(_run, sizes=(1, 1, 1)))


@pytest.mark.slow  # the contract takes every mesh
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        *(("rotary", sizes) for sizes in ((8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2))),
        *(("learned", sizes) for sizes in ((1, 2, 4), (2, 4, 1))),
    ],
)
def test_meshes_agree_on_values_and_gradients(kind, sizes):
    _assert_equal(_run(kind, sizes), _on_one_device(kind))


@pytest.mark.slow
def test_tokens_that_do_not_split_over_tensor_stay_whole_and_give_the_same():
    _assert_equal(_run("rotary", (1, 1, 4), 3, 11), _run("rotary", (1, 1, 1), 3, 11))


def _assert_equal(result, expected):
    (value, gradient), (one_value, one_gradient) = result, expected
    np.testing.assert_allclose(value, one_value, rtol=1e-5)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(one_gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest), gradient, one_gradient)


SPREAD = {"all-gather": 6, "reduce-scatter": 6}  # around attention and around the MLP: forward, again, and backward


@pytest.mark.parametrize(
    ("sizes", "rows", "parts", "kinds"),
    [((1, 2, 4), 8, 8, SPREAD), ((2, 2, 2), 8, 8, SPREAD), ((1, 1, 4), 3, 1, {"all-reduce": 6})],
    ids=("4", "2", "no_multiple"),
)
def test_between_linear_maps_tokens_are_spread_over_tensor_where_they_divide(sizes, rows, parts, kinds):
    model, length = models.build(ModelConfig(**SIZES, **KINDS["rotary"])), 11
    with jax.set_mesh(sharding.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])):
        inputs = checkpoints.rows(*(x[:rows, :length] for x in (TOKENS, POSITIONS, SEGMENTS, PREFIXES)))
        gradient = jax.grad(lambda params: checkpoints.hidden(model, params, inputs, remat="full").sum())
        shape = dict(jax.sharding.get_abstract_mesh().shape)
        depths, vocabulary = frozenset({SIZES["layers"]}), model.config.padded_vocab
        setting = program.Setting(depths, vocabulary, shape, 8, "cpu", rows * length / parts, 0, length)
        work = program.work_of(jax.make_jaxpr(gradient)(_abstract_params(model)), setting)
    assert work.saved_bytes == SIZES["layers"] * rows * length / parts * SIZES["width"] * 4  # the input of every layer
    assert kinds == collections.Counter(one.kind for one in work.collectives if one.axes == ("tensor",) and one.loop == "layers")


@pytest.mark.parametrize("sizes", [(1, 1, 8), (2, 2, 2)])
def test_random_weights_are_the_same_numbers_on_every_mesh(sizes):
    model = models.build(ModelConfig(**SIZES, **KINDS["rotary"]))
    with jax.set_mesh(checkpoints.one_device()):
        expected = models.init(model, jax.random.key(0))
    with jax.set_mesh(sharding.make_mesh(*sizes, devices=jax.devices()[:8])):
        params = models.init(model, jax.random.key(0))
        assert jax.tree.map(lambda x: x.sharding.spec, params) == models.shardings(model)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_every_device_stores_its_part_of_every_matrix_only():
    model = models.build(ModelConfig(**SIZES, **KINDS["rotary"]))
    with jax.set_mesh(sharding.make_mesh(fsdp=4, tensor=2, devices=jax.devices()[:8])):
        partitions = dict(names.leaves(models.shardings(model)))
        shapes = {path: leaf.shape for path, leaf in names.leaves(model.shapes) if path[-1] in ("kernel", "tokens")}
        stored = {path: sharding.named(partitions[path]).shard_shape(shape) for path, shape in shapes.items()}
    assert len(stored) == 8
    assert {path: np.prod(part) * 8 for path, part in stored.items()} == {path: np.prod(shape) for path, shape in shapes.items()}


def test_no_gathered_weight_is_kept_for_the_backward_pass():
    model = models.build(ModelConfig(**SIZES, **KINDS["rotary"]))
    with jax.set_mesh(sharding.make_mesh(fsdp=8, devices=jax.devices()[:8], torus=(2, 2, 2))):
        inputs = checkpoints.plain(TOKENS[:, :5])  # 40 tokens: no activation has the shape of a weight

        def backward(params):
            return jax.vjp(lambda params: checkpoints.hidden(model, params, inputs), params)[1]

        kept = jax.make_jaxpr(backward)(_abstract_params(model)).out_avals
    stacked = {leaf.shape for path, leaf in names.leaves(model.shapes["layers"]) if path[-1] == "kernel"}
    matrices = [x.sharding.spec for x in kept if x.shape in stacked]
    assert len(matrices) >= 7 and all(sharding.FSDP in spec for spec in matrices)


def test_a_width_that_the_mesh_does_not_divide_is_refused():
    model = models.build(ModelConfig(**{**SIZES, "width": 60}, family="llama"))
    with jax.set_mesh(sharding.make_mesh(fsdp=8, devices=jax.devices()[:8])), pytest.raises(ValueError, match="'embed' of size 60"):
        models.init(model, jax.random.key(0))

"""Kernels in 8 and 4 bits: how far they are from what they stand for, and that training on them is training on those numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign import sharding
from jaxalign.data.rows import pack
from jaxalign.models import lora, merge, quantized
from jaxalign.models import model as models
from jaxalign.training import forward

AXES = ("embed", "mlp")


def round_trip(kernel, kind, axes=AXES):
    weight = quantized.quantize(jnp.asarray(kernel, jnp.float32), axes, kind)
    return np.asarray(quantized.dequantized(weight, jnp.float32)), weight


def largest_of_blocks(kernel, block):
    return np.repeat(np.abs(kernel.reshape(len(kernel), -1, block)).max(-1), block, axis=1)


@pytest.mark.parametrize(("kind", "share"), [("int8", 0.5 / 127), ("nf4", (0.6961928009986877 - 1.0) / -2)])
def test_no_number_moves_by_more_than_half_of_the_widest_step_of_its_block(kind, share):
    kernel = np.random.default_rng(0).standard_normal((32, 256)) ** 3  # heavy tails
    with jax.set_mesh(toys.mesh()):
        found, weight = round_trip(kernel, kind)
    assert (np.abs(found - kernel) <= share * largest_of_blocks(kernel, 32) * (1 + 1e-5)).all()
    assert weight.codes.nbytes == kernel.size // (2 if kind == "nf4" else 1) and weight.scales.shape == (32, 8)
    assert quantized.count({"kernel": weight}) == kernel.size


@pytest.mark.parametrize("kind", quantized.KINDS)
def test_numbers_of_the_table_zeros_and_the_largest_of_a_block_stay_exactly(kind):
    table = np.array(quantized.NF4 if kind == "nf4" else np.arange(-127, 128) / 127, np.float32)
    kernel = np.zeros((3, 64), np.float32)
    kernel[0] = np.random.default_rng(1).choice(table, 64)
    kernel[0, 5], kernel[2, 7] = 1.0, -3.25
    with jax.set_mesh(toys.mesh()):
        np.testing.assert_allclose(round_trip(kernel, kind, ("embed", None))[0], kernel, rtol=1e-6, atol=0)


def test_nf4_is_nearer_to_normal_numbers_than_even_steps_of_as_many_bits():
    kernel = np.random.default_rng(2).standard_normal((64, 512))
    with jax.set_mesh(toys.mesh()):
        error = np.square(round_trip(kernel, "nf4")[0] - kernel).mean()
    step = largest_of_blocks(kernel, 64) / 7
    even = np.square(np.round(kernel / step) * step - kernel).mean()
    assert error < 0.8 * even


@functools.cache
def batch_arrays():
    return pack.assemble(toys.groups(4, seed=3), np.array([[0, 1], [2, 3]] * 2, np.int32), row_tokens=80, share_prompt=True)


def dequantized(leaf):
    return quantized.dequantized(leaf, jnp.float32) if quantized.is_quantized(leaf) else leaf


def run(kind, mesh, *, plain=False):
    """(a sum of functions of the log-probs, its gradient by the adapters), on a base of this kind, or on what that stands for."""
    model = models.build(toys.CONFIG, lora=toys.LORA, base_dtype=kind)
    with jax.set_mesh(toys.mesh(mesh)):
        params = quantized.stored_as(toys.place_params(toys.params(0)), model.shapes, model.axes)
        draw = np.random.default_rng(5)
        place = models.shardings(model)[models.LORA]
        adapters = jax.tree.map(lambda shape: (0.3 * draw.standard_normal(shape.shape)).astype(np.float32), model.shapes[models.LORA])
        adapters = jax.tree.map(lambda x, partition: jax.device_put(x, sharding.named(partition)), adapters, place)
        if plain:  # the numbers that the codes stand for, as ordinary kernels
            merged, rounded = merge.merged(model, params)
            params = jax.tree.map(dequantized, params, is_leaf=quantized.is_quantized)
            assert jax.tree.map(jnp.shape, rounded) == jax.tree.map(lambda shape: shape.shape, lora.off(merged.shapes))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-8), rounded, params)
            model = models.build(toys.CONFIG, lora=toys.LORA)
        batch = toys.place(batch_arrays())

        def total(adapters):
            options = {"dtype": jnp.float32, "remat": "none", "attention": "xla"}
            return jnp.sum(jnp.sin(forward.next_token(model, {**params, models.LORA: adapters}, batch, jnp.int32(0), **options).logps))

        return jax.device_get(jax.jit(jax.value_and_grad(total))(adapters))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mesh"), [("int8", (1, 2, 4)), ("nf4", (2, 2, 2))])
def test_training_on_codes_is_training_on_the_numbers_that_they_stand_for(kind, mesh):
    value, gradient = run(kind, mesh)
    expected, wanted = run(kind, (1, 1, 1), plain=True)
    np.testing.assert_allclose(value, expected, rtol=1e-4)  # of a sum of sines
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max()), gradient, wanted)


@pytest.mark.slow
def test_a_random_base_is_quantized_in_its_shards_and_its_tables_are_not():
    model = models.build(toys.CONFIG, lora=lora.LoraConfig(2, 2.0), base_dtype="nf4")
    with jax.set_mesh(toys.mesh((1, 2, 2))):
        drawn = models.init(model, jax.random.key(0))
        places = jax.tree.map(lambda x: x.sharding.spec, drawn)
        assert places == models.shardings(model)
    up = drawn["layers"]["mlp"]["up"]["kernel"]
    assert (up.codes.dtype, up.codes.shape, str(drawn["embed"]["tokens"].dtype)) == (jnp.uint8, (2, 32, 12, 2), "bfloat16")
    plain = models.build(toys.CONFIG)
    assert quantized.count(lora.off(model.shapes)) == quantized.count(plain.shapes)


def test_a_last_axis_of_odd_size_is_refused_for_four_bits():
    with pytest.raises(ValueError, match="packs two numbers into a byte, and a linear map ends in 27 numbers; use 'int8'"):
        quantized.described((3, 27), AXES, "nf4")

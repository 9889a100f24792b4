"""Rows of groups, random queries, keys and values, and gradients: what the tests of all implementations of attention share."""

import jax
import jax.numpy as jnp
import numpy as np


def marks_of(lengths, places: int) -> list[np.ndarray]:
    """Positions, segments and prefixes int32[R, places] of rows of groups (prompt, response, ...), with padding at the end."""
    marks = np.zeros((3, len(lengths), places), np.int32)
    for row, groups in enumerate(lengths):
        place, segment = 0, 0
        for pieces in groups:
            prompt = segment + 1
            for number, length in enumerate(pieces):
                segment, start = segment + 1, pieces[0] - 1 if number else 0
                for mark, values in zip(marks, (start + np.arange(length), segment, prompt * (number > 0)), strict=True):
                    mark[row, place : place + length] = values
                place += length
    return list(marks)


def weights(dtype, places: int, heads: int, kv_heads: int, size: int) -> list[jax.Array]:
    """Scaled queries, keys, values and a direction of the gradient, of two rows."""
    random = np.random.default_rng(5)
    shapes = [(2, places, number, size) for number in (heads, kv_heads, kv_heads, heads)]
    scale = size**-0.5, 1, 1, 1
    return [jnp.asarray(factor * random.standard_normal(shape), dtype) for factor, shape in zip(scale, shapes, strict=True)]


def with_gradients(attention, **options):
    """(attention, gradients of q, k, v) of a random linear function of the attention, jitted with these options."""

    def run(q, k, v, direction, *marks):
        out, pull = jax.vjp(lambda q, k, v: attention(q, k, v, *marks), q, k, v)
        return out, *pull(direction)

    return jax.jit(run, **options)


def assert_close(found, expected, dtype, tolerance: float) -> None:
    """Both as from `with_gradients`; the tolerance is a share of the largest value of an array."""
    for name, array, right in zip(("attention", "dq", "dk", "dv"), found, expected, strict=True):
        assert array.dtype == dtype
        np.testing.assert_allclose(array.astype(jnp.float32), right, rtol=0, atol=tolerance * np.abs(right).max(), err_msg=name)

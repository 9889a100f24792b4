"""Discounted sums along the tokens of a sequence, restarting at its borders: what IFT calls dynamic relation propagation."""

import jax
import jax.numpy as jnp

from jaxalign.types import Array


def future_sums(x: Array, segments: Array, discount: float) -> Array:
    """sum over k >= t of discount^(k - t) x[k], over the k of t's own segment: [R, T] -> [R, T].

    The exponent counts positions, those in between that are not scored too. Differentiable; log2(T) steps.

    Args:
      x: float[R, T], 0 where a position is not to count.
      segments: int32[R, T] as in `Batch`.
      discount: in [0, 1].
    """
    goes_on = segments[:, :-1] == segments[:, 1:]
    keep = jnp.where(jnp.pad(goes_on, ((0, 0), (0, 1))), jnp.asarray(discount, x.dtype), 0)

    def join(later, earlier):
        # C_t = x_t + keep_t C_{t+1}, as the composition of affine maps
        return later[0] * earlier[0], earlier[1] + earlier[0] * later[1]

    return jax.lax.associative_scan(join, (keep, x), reverse=True, axis=1)[1]

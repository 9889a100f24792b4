"""KL(policy || reference) estimated from sampled tokens: k1, k2 and k3 (J. Schulman, "Approximating KL divergence", 2020).

On samples of the policy the mean of k1 and k3 is the KL, that of k2 about. Their gradients differ. In a *loss* the mean gradient of k1 is
0: it pushes nowhere. That of k2 is the gradient of KL(policy || reference), that of k3 the gradient of KL(reference || policy), each at the
prefixes given. In a *reward*, which is a constant, k1 gives the gradient of the KL of whole responses.
"""

import jax.numpy as jnp

from jaxalign.types import Array

LARGEST = 20.0  # nats; log-ratios are held within it before an exponential


def k1(logps: Array, reference_logps: Array) -> Array:
    """log pi - log pi_ref, in nats; below 0 for about half of the samples. Arrays of log-probs of one shape."""
    return logps - reference_logps


def k2(logps: Array, reference_logps: Array) -> Array:
    """Half the square of k1; never below 0."""
    return 0.5 * (logps - reference_logps) ** 2


def k3(logps: Array, reference_logps: Array) -> Array:
    """pi_ref / pi - 1 + k1; never below 0. Where pi is less than exp(-20) of pi_ref it is that of this limit, without a gradient."""
    difference = jnp.maximum(logps - reference_logps, -LARGEST)
    return jnp.exp(-difference) - 1 + difference


ESTIMATES = {"k1": k1, "k2": k2, "k3": k3}

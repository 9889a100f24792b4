"""Multi-objective DPO with the hinge loss (offered by the published code of arXiv 2310.03708, not measured in the paper)."""

import jax

from jaxalign.objectives.modpo import margin_terms
from jaxalign.objectives.modpo import requires as requires
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("paired", "reference")


def modpo_hinge(
    policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.1, weights: tuple = (0.5, 0.5), margins: tuple = ("margin",)
) -> Terms:
    """max(0, 1 - z) for every pair, with the z and the errors of `modpo`.

    Args:
      beta: strength of the pull to the reference, > 0.
      weights: of the objective whose pairs are in the batch, > 0, then of every margin.
      margins: columns with the rewards of the other objectives, in the order of weights[1:].
    """
    # L = max(0, 1 - z)
    return margin_terms(lambda z: jax.nn.relu(1 - z), "modpo_hinge", policy, reference, batch, beta=beta, weights=weights, margins=margins)

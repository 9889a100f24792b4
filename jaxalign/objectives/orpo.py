"""ORPO: the odds of the chosen response against the rejected one, beside the likelihood (arXiv 2403.07691, equations 6 and 7)."""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families.pairs import pair_terms, pairs
from jaxalign.types import Array, Batch, Outputs, Terms

REQUIRES = ("paired",)


def orpo(policy: Outputs, reference: Outputs | None, batch: Batch, *, lam: float = 0.1) -> Terms:
    """-a_chosen - lam log sigmoid(log odds ratio) for every pair, with a the mean log-prob per token and odds exp(a) / (1 - exp(a)).

    -a_chosen + lam ln 2 where both sides have the same mean. Rewards are lam * a.

    The likelihood is that of the response; TRL's covers the prompt too.

    Args:
      policy: log-probs of the batch.
      reference: not read.
      batch: paired groups; response 0 is preferred to response 1.
      lam: weight of the odds, > 0. The paper: 0.1 to 0.25.

    Raises:
      ValueError: lam is not above 0.
    """
    if not lam > 0:
        raise ValueError(f"objective 'orpo' got lam={lam}; it is the weight of the odds, > 0, often 0.1; without them it is 'sft'.")
    pair = pairs(policy, None, batch).per_token()
    # a filler's mean is 0, where the odds are infinite and so is their gradient
    mean = jnp.where(pair.weight[:, None] > 0, pair.log_ratios, -1.0)
    # log odds ratio = (a_w - a_l) - (log(1 - exp a_w) - log(1 - exp a_l))
    log_odds = mean - _log1mexp(mean)
    ratio = log_odds[:, 0] - log_odds[:, 1]
    # L = NLL_w + lam softplus(-log odds ratio)
    metrics = {"nll/chosen": pair.nll, "margins/log_odds": ratio}
    return pair_terms(pair.nll + lam * jax.nn.softplus(-ratio), pair, beta=lam, metrics=metrics)


def _log1mexp(x: Array) -> Array:
    """log(1 - exp(x)) for x < 0; what is nearer to 0 than 1e-6 counts as -1e-6, where float32 ends."""
    x = jnp.minimum(x, -1e-6)
    return jnp.where(x > -0.6931472, jnp.log(-jnp.expm1(x)), jnp.log1p(-jnp.exp(x)))

"""Distillation by policy gradient: the reverse KL to a teacher of whom only the log-probs of the sampled tokens are known.

The single-step form of MiniLLM (arXiv 2306.08543); with gamma 0 what is called on-policy distillation.
"""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families import distillation
from jaxalign.objectives.families.discounts import future_sums
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("reference", "teacher", "unpaired", "own_samples")


def distill_sampled(policy: Outputs, reference: Outputs, batch: Batch, *, gamma: float = 0.0) -> Terms:
    """-A rho for every scored token, with A = sum over k >= t of gamma^(k - t) (log p_teacher - log p_student)[k], a constant.

    rho = exp(logp - logp as a constant) is 1 in value, so with gamma 0 the loss is the estimate of KL(student || teacher) per token; with
    another gamma later tokens count again at every earlier one, and "kl/k1" alone is the estimate. On the student's own samples, drawn at
    temperature 1 from its weights of this step, the expected gradient is that of the KL per token with gamma 0, and with gamma 1 that of
    the KL of whole texts. On other text it is neither, so a configuration trains on nothing else.

    Args:
      policy, reference: log-probs of the student and of the teacher, whose weights need not be in memory (a column of log-probs does).
      batch: samples of the student; every valid response is trained on.
      gamma: discount of later tokens, in [0, 1]. MiniLLM in TRL: 0.

    Raises:
      ValueError: gamma is out of its range.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"objective 'distill_sampled' got gamma={gamma}; it is the discount of later tokens, in [0, 1], often 0.")
    weight = distillation.token_weights(batch)
    gap = jnp.where(weight > 0, jax.lax.stop_gradient(reference.logps - policy.logps), 0.0)
    advantage = future_sums(gap, batch.slots, gamma)
    # L = -A exp(log p - sg(log p))
    loss = -advantage * jnp.exp(policy.logps - jax.lax.stop_gradient(policy.logps))
    metrics = {"kl/k1": (-gap, weight), "advantages/mean": (advantage, weight)}
    return Terms(loss, weight, metrics | distillation.sides_metrics(policy, reference, batch))

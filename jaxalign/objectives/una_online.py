"""UNA on rollouts: the implicit reward is fitted to a reward model's, in the place of reinforcement learning (arXiv 2408.15339 v2)."""

import jax
import jax.numpy as jnp

from jaxalign.objectives.families import responses
from jaxalign.types import Batch, Outputs, Terms, column, sum_responses, token_column

REQUIRES = ("reference", "unpaired", "columns.rollout_reward")
FORMS = {"squashed": responses.mse, "raw": responses.raw}
DENOMINATORS = ("reference", "rollout")


def requires(*, denominator: str) -> tuple[str, ...]:
    """Log-probs of the policy that drew the responses, where they are the denominator."""
    return ("token_columns.rollout_logps",) if denominator == "rollout" else ()


def una_online(
    policy: Outputs, reference: Outputs, batch: Batch, *, beta: float = 0.03, form: str = "squashed", denominator: str = "reference"
) -> Terms:
    """(sigmoid(beta rho) - sigmoid(R))^2 for every response of reward R, rho = log pi - log pi_ref (equation 9).

    Where policy and denominator are equal: (1/2 - sigmoid(R))^2, or R^2 with form "raw". There is no critic, no advantage, no clip and no
    ratio. On samples of the policy itself, drawn from its whole distribution, the expected gradient of form "raw" is nought where
    beta rho = R + constant, which is PPO's optimum with the same beta. That of "squashed" is nought there for the constant 0 alone, so it
    ends nearby.

    Args:
      policy, reference: log-probs of the same batch.
      batch: a rollout of feedback that keeps every sample ("scores"); reads the reward as given, less the penalty for a missing end.
      beta: strength of the pull to the reference, > 0. The paper: 0.03.
      form: "squashed"; or "raw", (beta rho - R)^2 (equation 7), for rewards whose scale means something.
      denominator: "reference"; or "rollout", the policy that drew the response, as in the released script: its first step on a batch is
        REINFORCE with the baseline 1/2, and nothing pulls to the reference.

    Raises:
      ValueError: an unknown option, or a column is missing.
    """
    if form not in FORMS or denominator not in DENOMINATORS:
        raise ValueError(f"objective 'una_online' got {form=}, {denominator=}; there are {(*FORMS,)} and {DENOMINATORS}.")
    reward = column(batch, "rollout_reward")
    each = responses.responses(policy, reference, batch)
    if denominator == "rollout":
        each = each.replace(log_ratios=each.logps - sum_responses(token_column(batch, "rollout_logps"), batch))
    u, target = beta * each.log_ratios, jax.nn.sigmoid(reward)
    loss = FORMS[form](u, reward if form == "raw" else target)
    terms = responses.response_terms(loss, each, u, target, beta=beta)
    return terms.replace(metrics=terms.metrics | {"rewards/error": (jnp.abs(u - reward), each.weight)})

"""REINFORCE leave-one-out (arXiv 2402.14740), with PPO's clip of the ratio of whole responses for further steps on the same samples."""

from jaxalign.objectives.families import surrogate
from jaxalign.types import Batch, Outputs, Terms

REQUIRES = ("columns.advantage", f"token_columns.{surrogate.LOGPS}")


def rloo(policy: Outputs, reference: Outputs | None, batch: Batch, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Terms:
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) for every response, rho = pi / pi_rollout of the whole response.

    At the first step on a response rho is 1, and the gradient that of -A log pi. The leave-one-out baseline and the KL to the reference, a
    part of the reward, belong to data.rollout: baseline="leave_one_out", scale="none", beta.

    Args:
      policy: log-probs of the batch.
      reference: not read; where there is one, the drift from it is measured.
      batch: a rollout with feedback "group_advantage".
      clip_low, clip_high: 0.2 both. The ratio of a long response leaves the band soon.

    Raises:
      ValueError: an option out of its range, or a column is missing.
    """
    surrogate.check("rloo", clip_low=clip_low, clip_high=clip_high)
    advantage = surrogate.response_advantages(batch)
    log_ratio = surrogate.of_responses(surrogate.log_ratios(policy, batch), batch, mean=False)
    loss, metrics = surrogate.clipped(log_ratio, advantage, clip_low=clip_low, clip_high=clip_high)
    metrics |= {"advantages/mean": advantage, "advantages/square": advantage**2}
    return surrogate.terms(loss, policy, reference, batch, metrics)

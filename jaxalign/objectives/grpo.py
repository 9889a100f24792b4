"""Group Relative Policy Optimization (arXiv 2402.03300), with the options that make it DAPO, Dr. GRPO or GSPO."""

from jaxalign.objectives.families import surrogate
from jaxalign.types import Batch, Outputs, Terms, at_tokens

REQUIRES = ("columns.advantage", f"token_columns.{surrogate.LOGPS}")


def requires(*, beta: float) -> tuple[str, ...]:
    """A reference, where the loss holds its KL."""
    return ("reference",) if beta else ()


def grpo(
    policy: Outputs,
    reference: Outputs | None,
    batch: Batch,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 0.0,
    ratio: str = "token",
    beta: float = 0.0,
    kl: str = "k3",
    reduction: str = "response_mean",
    max_tokens: int = 0,
) -> Terms:
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) + beta kl at every token, with A the advantage of the token's response.

    rho is the ratio to the policy that drew the response, 1 before the first step on it. How A is made of a group's rewards belongs to
    data.rollout: the mean as baseline and a scale (GRPO) or none (Dr. GRPO).

    Args:
      policy: log-probs of the batch.
      reference: for beta; where there is one, the drift from it is measured.
      batch: a rollout with feedback "group_advantage".
      clip_low, clip_high: 0.2 both; DAPO (arXiv 2503.14476): 0.28 above.
      dual_clip: the largest ratio that counts where A < 0, > 1, often 3; 0: none.
      ratio: "token"; or "sequence", one per response, the geometric mean over its tokens (GSPO, arXiv 2507.18071: clips of about 3e-4).
      beta: weight of the KL to the reference in the loss. The paper: 0.04.
      kl: its estimate: "k3", or "k2", which has the gradient of KL(policy || reference).
      reduction: "response_mean" (GRPO), "token_mean" (DAPO), or "constant", the sum over a response by max_tokens (Dr. GRPO,
        arXiv 2503.20783).
      max_tokens: of "constant"; the longest response.

    Raises:
      ValueError: an option out of its range, or a column is missing.
    """
    shape = {"reduction": reduction, "max_tokens": max_tokens}
    surrogate.check("grpo", clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, beta=beta, kl=kl, level=ratio, **shape)
    advantage, log_ratio = surrogate.response_advantages(batch), surrogate.log_ratios(policy, batch)
    if ratio == "sequence":
        log_ratio = at_tokens(surrogate.of_responses(log_ratio, batch, mean=True), batch)
    clips = {"clip_low": clip_low, "clip_high": clip_high, "dual_clip": dual_clip}
    loss, metrics = surrogate.clipped(log_ratio, at_tokens(advantage, batch), **clips)
    metrics |= {"advantages/mean": advantage, "advantages/square": advantage**2}
    if beta:
        metrics["loss/kl"] = surrogate.kl_loss(policy, reference, kl)
        loss = loss + beta * metrics["loss/kl"]
    return surrogate.terms(loss, policy, reference, batch, metrics, **shape)

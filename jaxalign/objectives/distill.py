"""Distillation: the student's next-token distributions move to the teacher's (GKD, arXiv 2306.13649, equations 1 and 2)."""

from jaxalign.lm_head.divergences import Kind
from jaxalign.objectives.families import distillation
from jaxalign.types import Batch, Outputs, Terms, weights_of_means

REQUIRES = ("reference", "teacher", "unpaired")
REDUCTIONS = ("token_mean", "seq_mean")


def distill(
    policy: Outputs,
    reference: Outputs,
    batch: Batch,
    *,
    divergence: str = "forward",
    beta: float = 0.5,
    rescale: bool = False,
    loss_temperature: float = 1.0,
    top_k: int = 0,
    reduction: str = "token_mean",
) -> Terms:
    """The divergence of the student (the policy) from the teacher (the reference) at every scored token, 0 where they are equal.

    Exact over the vocabulary and on the text given, whoever wrote it: the teacher, the student itself, or nobody of the two. No gradient
    goes through how the text was drawn.

    Args:
      policy, reference: hidden states and heads of student and teacher on the same batch; reference.rule="teacher" names a teacher.
      batch: every valid response is trained on. The stop token is scored, so that the student learns to end.
      divergence: "forward", KL(teacher || student), which covers the teacher's modes; "reverse", KL(student || teacher), which seeks
        them; "jsd", beta KL(teacher || m) + (1 - beta) KL(student || m) with m = beta teacher + (1 - beta) student.
      beta: of "jsd", in (0, 1): the weight of the *teacher*. Near 0 its gradient is beta times the forward KL's, near 1 (1 - beta) times
        the reverse KL's.
      rescale: divide "jsd" by min(beta, 1 - beta), so that it has the scale of the KLs; published: no.
      loss_temperature: divides the logits of both; TRL's GKD does not let its temperature reach the loss.
      top_k: compare only the teacher's k likeliest tokens, both normalised there; 0: all. What the student gives to other tokens is then
        not seen.
      reduction: "token_mean" over the scored tokens of the batch, or "seq_mean", the mean of every response's mean (equation 2);
        a response without scored tokens counts in neither.

    Raises:
      ValueError: an option out of its range or without effect, or a teacher that is a table of log-probs.
    """
    kind = Kind(divergence, beta, loss_temperature, top_k)
    kind.check()
    if reduction not in REDUCTIONS:
        raise ValueError(f"objective 'distill' got reduction={reduction!r}; there are {', '.join(REDUCTIONS)}.")
    if divergence != "jsd" and (beta != 0.5 or rescale):
        raise ValueError(f"objective 'distill' got {beta=}, {rescale=} with {divergence=}: only 'jsd' reads them; leave them out.")
    by_token, metrics = distillation.measured("distill", policy, reference, batch, kind)
    by_token = by_token / min(beta, 1 - beta) if rescale else by_token
    weight = distillation.token_weights(batch) if reduction == "token_mean" else weights_of_means(batch)
    return Terms(by_token, weight, metrics)

"""A-LoL with a KL penalty over the whole vocabulary at every token; ours, see `alol_kl_published` for that of the paper."""

from jaxalign.lm_head.distributions import token_kl
from jaxalign.objectives.families import likelihood
from jaxalign.types import Batch, Outputs, Terms, sum_responses

REQUIRES = ("reference", "columns.advantage")


def alol_kl(policy: Outputs, reference: Outputs, batch: Batch, *, kl_beta: float = 0.2) -> Terms:
    """max(A, 0) * -log pi + kl_beta * sum over tokens of KL(pi || pi_ref) for every valid response.

    The penalty is exact on the text given, 0 with gradient 0 where policy and reference are equal.

    Args:
      policy, reference: hidden states and log-probs of the same batch.
      batch: column "advantage" float32[N, K]; every valid response is trained on, both sides of a pair too.
      kl_beta: weight of the penalty per nat, >= 0.

    Raises:
      ValueError: kl_beta is negative, the reference is a table of log-probs, or the column is missing.
    """
    if not kl_beta >= 0:
        raise ValueError(f"objective 'alol_kl' got kl_beta={kl_beta}; it must be >= 0, 0 being alol_ref_free.")
    if reference.hidden is None:
        raise ValueError(
            "objective 'alol_kl' needs the reference's whole distribution but this one has log-probs of the given tokens only; "
            "use reference.rule='frozen', or the objective alol, which needs no more."
        )
    advantage, metrics = likelihood.positive_advantages(batch)
    sides = ((outputs.hidden, outputs.unembed) for outputs in (policy, reference))
    by_token = token_kl(*sides, batch.slots >= 0, vocab_size=policy.vocab_size, softcap=policy.softcap)
    # L = max(A, 0) nll + kl_beta sum_t KL(pi_t || pi_ref_t)
    loss = advantage * likelihood.nll(policy, batch) + kl_beta * sum_responses(by_token, batch)
    return likelihood.terms(loss, policy, reference, batch, metrics, {"kl_penalty": by_token})

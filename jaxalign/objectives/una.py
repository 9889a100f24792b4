"""UNA: one supervised loss for pairs, thumbs and scores alike (arXiv 2408.15339 v2, equations 10 to 13; UFT, arXiv 2410.21438)."""

import jax.numpy as jnp

from jaxalign.objectives.dpo import dpo
from jaxalign.objectives.families import responses
from jaxalign.types import Array, Batch, Outputs, Terms

REQUIRES = ("reference", "mixed", "rewards")
OFFSETS = ("zero", "const", "ema", "kl_batch", "value_head")


def requires(*, offset: str, loss: str) -> tuple[str, ...]:
    """What the offset reads."""
    value = ("value_head",) if loss == "raw" else ("value_head", "scores_of_prompts")
    return {"kl_batch": ("mismatched",), "value_head": value}.get(offset, ())


def statistics(policy: Outputs, reference: Outputs, batch: Batch, *, beta: float, offset: str) -> dict:
    """What the offset is made of: the rewards of single responses, or the log-ratios of mismatched ones."""
    if offset == "kl_batch":
        return {"kl": responses.mismatched_log_ratios(policy, reference, batch)}
    return responses.reward_statistics(responses.single_responses(policy, reference, batch), beta=beta) if offset == "ema" else {}


def carry(previous: dict[str, Array], current: dict[str, Array], step: Array, *, offset: str, decay: float) -> dict:
    """Running means for offset "ema", else what this step has."""
    return responses.running_means(previous, current, decay) if offset == "ema" else current


def una(
    policy: Outputs,
    reference: Outputs,
    batch: Batch,
    statistics: dict[str, Array],
    *,
    beta: float = 0.03,
    loss: str = "mse",
    offset: str = "zero",
    constant: float = 0.0,
    decay: float = 0.99,
) -> Terms:
    """-log sigmoid(beta h) for a pair; (sigmoid(u) - t)^2, or another loss of u = beta rho + offset, for a single response of reward t.

    Where policy and reference are equal: ln 2 for a pair, (1/2 - t)^2 (mse) or ln 2 (bce) for a response with offset zero. Every judgement,
    pair or response, weighs once. The paper prints a minus before the squared errors; its code minimises them, as here.

    Args:
      policy, reference: log-probs of the same batch.
      batch: pairs and single responses in any mixture; reward 1 or 0 for thumbs, a score in [0, 1], 1 for instructions (UFT).
      statistics: what `statistics` and `carry` made; constants.
      beta: strength of the pull to the reference, > 0. The paper: 0.03 for pairs and scores, 0.01 for thumbs.
      loss: of responses: "mse"; "bce"; "l1", which with offset "kl_batch" is KTO; "raw", (u - t)^2 with t any number (equation 7).
      offset: the paper's f(x) + c. "zero", as in its experiments; "const"; "ema", minus the running mean reward (BCO's shift); "kl_batch",
        -beta max(0, mean rho of mismatched responses); "value_head", logit(V) with V(x) in (0, 1) the prompt's score at rho = 0, hence
        within +-13.8, or with "raw" V itself, no further than the head reaches; this loss trains the head.
      constant: of offset "const".
      decay: of offset "ema", 0 <= decay < 1.

    Raises:
      ValueError: an unknown option or one without effect; no value head; no column "mismatched".
    """
    if loss not in responses.KERNELS or offset not in OFFSETS or not 0 <= decay < 1:
        raise ValueError(f"objective 'una' got {loss=}, {offset=}, {decay=}; there are {(*responses.KERNELS,)}, {OFFSETS}, 0 <= decay < 1.")
    if (constant and offset != "const") or (decay != 0.99 and offset != "ema"):
        raise ValueError(f"objective 'una' got {constant=}, {decay=} with {offset=}: 'const' alone reads constant, 'ema' alone decay.")
    each = responses.single_responses(policy, reference, batch)
    u = beta * each.log_ratios + _offset(policy, statistics, beta, loss, offset, constant)
    terms = responses.response_terms(responses.KERNELS[loss](u, batch.reward), each, u, batch.reward, beta=beta)
    if batch.valid.shape[1] < 2:
        return terms.replace(metrics=terms.metrics | {"loss/scores": (terms.loss, terms.weight)})
    return responses.mixed_terms(dpo(policy, reference, batch, beta=beta), terms, batch)


def _offset(policy, statistics, beta, loss, offset, constant):
    if offset == "value_head":
        return responses.prompt_offset(policy, squashed=loss != "raw")
    if offset == "kl_batch":
        return -beta * jnp.maximum(statistics["kl"], 0.0)
    return -responses.mean_reward(statistics) if offset == "ema" else constant

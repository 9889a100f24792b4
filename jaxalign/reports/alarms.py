"""What a reader of held-out metrics must not overlook."""

from collections.abc import Mapping
import math

from jaxalign.reports.estimates import Estimate

LOGPS, REWARDS = "logps/chosen", "rewards/chosen"  # in nats per response; beta times their change, where a reference is the start
ERRORS = 2  # standard errors that a change must exceed
NO_CHANGE = 1e-4  # of a reward before the first step: it compares with what the run started from


def falling(first: Mapping[str, Estimate], last: Mapping[str, Estimate]) -> list[str]:
    """A sentence per held-out set whose chosen answers became less likely, by more than two standard errors.

    Methods that compare two answers may push both down (arXiv 2402.13228, 2410.08847): a gain in accuracy then hides that good answers are
    lost. Where rewards are measured against the start of the run, their error is that of the change on the same prompts; elsewhere the
    errors of both ends add up.

    Args:
      first, last: held-out metrics before the first step and now.
    """
    sentences = []
    for name in sorted(last):
        where = name.removesuffix(LOGPS)
        if not name.endswith(LOGPS) or where.endswith("initial/") or name not in first:
            continue
        start, now = first[name], last[name]
        if now.value < start.value and _is_sure(where, first, last):
            of = f" of {where.rstrip('/')}" if where else ""
            sentences.append(
                f"ALARM: the chosen answers{of} are less likely than before training: {start.value:,.1f} -> {now.value:,.1f} nats per "
                "answer. Look at samples; dpo_nll, dpop or a lower learning rate keep them likely."
            )
    return sentences


def _is_sure(where, first, last) -> bool:
    reward = next((name for name in (f"{where}initial/{REWARDS}", f"{where}{REWARDS}") if name in last and name in first), None)
    if reward is not None and abs(first[reward].value) < NO_CHANGE:
        return last[reward].value < -ERRORS * _known(last[reward].se)
    before, after = (metrics[f"{where}{LOGPS}"] for metrics in (first, last))
    return before.value - after.value > ERRORS * math.hypot(_known(before.se), _known(after.se))


def _known(error: float) -> float:
    return error if math.isfinite(error) else math.inf

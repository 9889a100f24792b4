"""Reference rules: what the reference model is at every step.

A rule is `(reference, trainable, step, **hparams) -> reference`, called inside the train step after the update. The reference is part of
the train state: it starts as a copy of the policy, is sharded and checkpointed like it, and never receives a gradient.
"""


def none(reference, trainable, step):
    """No reference model: nothing is held in memory."""
    return None


def frozen(reference, trainable, step):
    """The policy as it was before the first step, for ever."""
    return reference


RULES = {"none": none, "frozen": frozen}

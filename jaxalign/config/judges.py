"""The rewards and the judge that eval.generate names, and the metrics that come of them."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxalign.evaluators.generation import Judging
from jaxalign.scoring import rewards

JUDGE = "judge"  # the name of a reward that eval.generate.judge alone names


def judging(spec: Mapping[str, Any], make: Callable = rewards.make) -> Judging:
    """The rewards and the judge that eval.generate names.

    Args:
      make: what a reward is made with from its spec.

    Raises:
      ValueError: one of them is no reward, or none decides where answers are compared.
    """
    specs = dict(sorted((spec["rewards"] or {}).items()))
    decides = spec["judge"]
    if decides is not None and not (isinstance(decides, str) and decides in specs):
        specs, decides = specs | {JUDGE: decides}, JUDGE
    if spec["against"] is not None and decides is None:
        if len(specs) != 1:
            named = f"there are {', '.join(specs)}; name one of them" if specs else "there is none; set eval.generate.rewards"
            raise ValueError(f"eval.generate.against={spec['against']!r} needs a reward that decides, and {named} in eval.generate.judge.")
        decides = next(iter(specs))
    return Judging({name: make(one) for name, one in specs.items()}, decides)


def metrics(spec: Mapping[str, Any]) -> set[str]:
    """Names of the held-out metrics that eval.generate gives.

    Raises:
      ValueError: a reward is none, as far as can be seen without files, or none decides.
    """
    return set(judging(spec, rewards.parse).metrics(against=spec["against"] is not None, kl=spec["kl"]))

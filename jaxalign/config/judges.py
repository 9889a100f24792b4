"""The rewards and the judge that eval.generate names, and the metrics that come of them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxalign.evaluators.generation import Judging
from jaxalign.scoring import judge, rewards

JUDGE = "judge"  # the name of a reward that eval.generate.judge alone names


class Makers(NamedTuple):
    """What rewards and judges of pairs are made with from their specs."""

    reward: Callable
    judge: Callable


MAKE, PARSE = Makers(rewards.make, judge.make), Makers(rewards.parse, judge.parse)  # PARSE looks at no file, and at no host


def judging(spec: Mapping[str, Any], makers: Makers = MAKE) -> Judging:
    """The rewards and the judge that eval.generate names.

    Raises:
      ValueError: one of them is no reward and no judge, or none decides where answers are compared.
    """
    specs, decides = named(spec)
    if _is_endpoint(decides):
        decides = makers.judge(decides)
    if spec["against"] is not None and decides is None:
        if len(specs) != 1:
            there = f"there are {', '.join(specs)}; name one of them" if specs else "there is none; set eval.generate.rewards"
            raise ValueError(f"eval.generate.against={spec['against']!r} needs a reward that decides, and {there} in eval.generate.judge.")
        decides = next(iter(specs))
    return Judging({name: makers.reward(one) for name, one in specs.items()}, decides)


def named(spec: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """(name -> reward, what decides) as specs: a judge that scores is a reward, JUDGE where it has no other name; an endpoint is none."""
    specs, decides = dict(sorted((spec["rewards"] or {}).items())), spec["judge"]
    if decides is None or _is_endpoint(decides) or (isinstance(decides, str) and decides in specs):
        return specs, decides
    return specs | {JUDGE: decides}, JUDGE


def _is_endpoint(spec):
    """Whether a judge is a language model behind an endpoint, which compares; a reward scores."""
    if isinstance(spec, str):
        return "@http" in spec and not spec.startswith("judge:")
    return isinstance(spec, Mapping) and "url" in spec and "kind" not in spec


def metrics(spec: Mapping[str, Any]) -> set[str]:
    """Names of the held-out metrics that eval.generate gives.

    Raises:
      ValueError: a reward is none, as far as can be seen without files, or none decides.
    """
    return set(judging(spec, PARSE).metrics(against=spec["against"] is not None, kl=spec["kl"]))

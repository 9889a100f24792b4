"""The methods of the bench: an objective with its options, the form of feedback that it reads, a reference rule and learning rates."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from jaxalign import objectives
from jaxalign.training import reference

BETA = 0.1  # of every method, so that what is compared is the learning rate's axis alone, but where a cell sets another


@dataclasses.dataclass(frozen=True)
class Method:
    """How a method trains."""

    objective: str
    form: str  # of the feedback, see `feedback.FORMS`
    rates: tuple[float, ...]  # with which it reaches KLs from below 1 to above 4 nats per response
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rule: str = ""  # of the reference; "": as little as the objective needs
    rule_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    other: str = ""  # a second gold: a reward model of its labels gives the column "margin", or with a share it labels the other pairs
    share: float = 1.0  # of the pairs that are labelled by the feedback's own gold
    online: str = ""  # the feedback that the policy's own samples get while it is trained, see `rollout.feedback`; "": offline
    samples: int = 2  # of a prompt, online
    rollout: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # options of that feedback
    after: tuple[str, float] | None = None  # the method, and its learning rate, that makes the policy from which this one starts

    @property
    def critic(self) -> str | None:
        """The critic of its model; None: it has none."""
        return "linear" if "critic" in self.bound().reads else None

    def bound(self) -> objectives.Objective:
        """The objective with its options."""
        return objectives.bind(self.objective, **self.options)

    def reference_rule(self) -> str:
        """Its rule: the base's log-probs as a column where that is enough, as samples bring them along; else the start in memory."""
        reads = self.bound().reads
        if self.rule:
            return self.rule
        if "mismatched" in reads or self.online or self.after:
            return "frozen"
        return "precomputed" if "reference" in reads else "none"

    def with_options(self, **options) -> "Method":
        """The method with other options of its objective."""
        return dataclasses.replace(self, options={**self.options, **options})


def _pairs(objective, rates, other="", **options):
    return Method(objective, "pairs", rates, options, other=other)


def _moving(method: Method, kind: str, every_steps: int, **options) -> Method:
    rates = (1e-4, 1.7e-4, 2.5e-4, 3.5e-4)  # they go further with the same rate
    return dataclasses.replace(method, rates=rates, rule=kind, rule_options={"every_steps": every_steps, **options})


DPO = _pairs("dpo", (1e-4, 2e-4, 3e-4, 4.5e-4), beta=BETA)
IPO = _pairs("ipo", (1.2e-4, 2.5e-4, 4e-4, 6e-4), tau=BETA, length_normalised=False)
KTO = Method("kto", "labels", (1.2e-4, 2.2e-4, 3.3e-4, 5e-4), {"beta": BETA})
SOFT, HARD = {"kind": "soft", "every_steps": 2, "alpha": 0.6}, {"kind": "hard", "every_steps": 3}  # of 30 steps
WEIGHTS = (75, 50, 25)  # percent of the feedback's own gold, where there are two
METHODS: dict[str, Method] = {
    "una_score": Method("una", "scores", (1.5e-4, 3e-4, 6e-4, 1.2e-3), {"beta": BETA}),
    "una_binary": Method("una", "labels", (1.5e-4, 3e-4, 5e-4, 8e-4), {"beta": BETA}),
    "kto": KTO,
    "dpo": DPO,
    "ipo": IPO,
    "alol": Method("alol", "advantages", (1.5e-4, 3e-4, 5e-4, 8e-4)),
    "wbc": Method("wbc", "scores", (4e-4, 7e-4, 1.2e-3, 2e-3)),
    "gold": Method("gold", "scores", (4e-4, 7e-4, 1.2e-3, 2e-3)),
    "nll": Method("nll", "labels", (4e-4, 7e-4, 1.2e-3, 2e-3)),
    "sft_best": Method("sft", "best", (4e-4, 7e-4, 1.2e-3, 2e-3)),
    "ift_best": Method("ift", "best", (4e-4, 7e-4, 1.2e-3, 2e-3)),
    "sft_then_dpo": dataclasses.replace(DPO, after=("sft_best", 4e-4)),
    "tr_dpo_soft": _moving(DPO, **SOFT),
    "tr_dpo_hard": _moving(DPO, **HARD),
    "tr_ipo_soft": _moving(IPO, **SOFT),
    "tr_ipo_hard": _moving(IPO, **HARD),
    "tr_kto_soft": _moving(KTO, **SOFT),
    "tr_kto_hard": _moving(KTO, **HARD),
    **{f"modpo_{w}": _pairs("modpo", DPO.rates, beta=BETA, weights=(w / 100, 1 - w / 100), other="plain") for w in WEIGHTS},
    **{f"mixed_{w}": dataclasses.replace(DPO, other="plain", share=w / 100) for w in WEIGHTS},
    "online_dpo": dataclasses.replace(DPO, online="pairs"),
    "online_una": Method("una_online", "scores", (1e-4, 2e-4, 3.5e-4, 6e-4), {"beta": BETA}, online="scores"),
    "online_kto": dataclasses.replace(KTO, online="labels", rollout={"threshold": 0.0}),
    "ppo": Method("ppo", "scores", (1e-4, 2e-4, 3.5e-4, 6e-4), online="gae", rollout={"beta": BETA}),
    "grpo": Method("grpo", "scores", (1e-4, 2e-4, 3.5e-4, 6e-4), {"beta": BETA}, online="group_advantage", samples=4),
    "rloo": Method(
        "rloo",
        "scores",
        (1e-4, 2e-4, 3.5e-4, 6e-4),
        online="group_advantage",
        samples=4,
        rollout={"baseline": "leave_one_out", "scale": "none", "beta": BETA},
    ),
}


def named(text: str) -> Method:
    """The method of a name, NAME or NAME:OPTION=NUMBER for another number of an option of its objective.

    Raises:
      ValueError: there is no such method, or an option is no number.
    """
    name, _, changes = text.partition(":")
    if name not in METHODS:
        raise ValueError(f"the gold bench has no method {name!r}; there are {', '.join(METHODS)}.")
    options = {}
    for change in filter(None, changes.split(":")):
        option, _, value = change.partition("=")
        try:
            options[option] = float(value)
        except ValueError as error:
            raise ValueError(f"method {text!r}: {change!r} is no OPTION=NUMBER.") from error
    return METHODS[name].with_options(**options)


def check(text: str) -> None:
    """Raises ValueError where a method is not there or its objective does not take an option."""
    method = named(text)
    accepted = objectives.bind(method.objective).hparams
    unknown = [option for option in method.options if option not in accepted]
    if unknown:
        raise ValueError(f"method {text!r}: objective {method.objective!r} has no option {unknown[0]!r}; it takes {', '.join(accepted)}.")
    if method.rule and method.rule not in reference.RULES:
        raise ValueError(f"method {text!r}: there is no reference rule {method.rule!r}.")

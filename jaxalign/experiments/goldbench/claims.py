"""From measured cells to claims: gold at equal KL, differences of methods seed by seed.

Methods are compared at equal KL and never at an equal learning rate: the gold of a method at a KL is interpolated between its cells on both
sides of it. An interval is Student's over seeds; a seed has its own label noise, order of the data, prompts and samples, which all methods
share. All seeds share the base policy and the training samples that were judged, whose choice is in no interval.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
import math
from typing import NamedTuple

import numpy as np

KLS = (1.0, 2.0, 3.0, 4.0)
BANDS = KLS[:2], KLS[2:]  # judged apart: a difference may change its sign between them, and its mean over both would hide that
FAR = (8.0, 16.0, 32.0)  # where rewards turn down that the policy has learned to exploit
NORMAL = 1.96  # for half of a 95 % interval
CLAIMS = (  # (what is claimed, the method that should be above, the other one)
    ("scores beat thumbs: UNA on scores above UNA on thumbs", "una_score", "una_binary"),
    ("UNA on scores above KTO", "una_score", "kto"),
    ("UNA on scores above DPO", "una_score", "dpo"),
    ("KTO above DPO", "kto", "dpo"),
    ("DPO above IPO", "dpo", "ipo"),
    ("TR-DPO (soft) above DPO", "tr_dpo_soft", "dpo"),
    ("TR-DPO (hard) above DPO", "tr_dpo_hard", "dpo"),
    ("TR-IPO (hard) above IPO", "tr_ipo_hard", "ipo"),
    ("TR-KTO (hard) above KTO", "tr_kto_hard", "kto"),
    ("A-LoL above weighted cloning", "alol", "wbc"),
    ("A-LoL above GOLD", "alol", "gold"),
    ("A-LoL above NLL", "alol", "nll"),
    ("A-LoL above SFT on the best", "alol", "sft_best"),
    ("A-LoL above DPO", "alol", "dpo"),
    ("IFT above SFT, both on the best", "ift_best", "sft_best"),
    ("IFT above SFT followed by DPO", "ift_best", "sft_then_dpo"),
    ("DPO above SFT on the best", "dpo", "sft_best"),
    ("online DPO above DPO", "online_dpo", "dpo"),
    ("online UNA above UNA on scores", "online_una", "una_score"),
    ("online UNA above PPO", "online_una", "ppo"),
    ("online DPO above PPO", "online_dpo", "ppo"),
    ("RLOO above PPO", "rloo", "ppo"),
    ("GRPO above PPO", "grpo", "ppo"),
    ("online KTO above KTO", "online_kto", "kto"),
    ("with the paper's betas, UNA on scores above UNA on thumbs", "una_score:beta=0.03", "una_binary:beta=0.01"),
    ("with the paper's betas, UNA on scores above KTO", "una_score:beta=0.03", "kto:beta=0.03"),
    ("with the paper's betas, UNA on scores above DPO", "una_score:beta=0.03", "dpo:beta=0.03"),
)
APPEARS, NOT, UNKNOWN = "appears", "does not: the reverse does", "cannot be told"


class Claim(NamedTuple):
    """A difference of two methods, in the mean over seeds and over those KLs that both reach with every seed."""

    feedback: str
    claim: str
    kls: tuple[float, ...]  # empty where no KL has trained cells of both methods on both sides
    difference: float
    half: float  # of the 95 % interval, its variance pooled over the methods
    alone: float  # the same from its own seeds alone
    seeds: int

    @property
    def verdict(self) -> str:
        """What both intervals show; one seed shows nothing.

        The pooled one takes seeds to differ as much with every method, which online methods and moving references do more than others.
        """
        if self.seeds < 2 or not abs(self.difference) > max(self.half, self.alone):
            return UNKNOWN
        return APPEARS if self.difference > 0 else NOT


def at_kl(start: float, points: Sequence[tuple[float, float]], kl: float) -> float:
    """The gold at a KL that trained points (KL, gold) enclose; NaN where none lies at or below it, or none at or above it.

    Interpolated linearly in the root of the KL is the gain over the start per root of the KL. A chord of the gold itself would understate
    a concave curve, the more so the further its ends are apart, and the method with cells near that KL would win.
    """
    ordered = sorted(point for point in points if point[0] > 0)
    if not ordered or not ordered[0][0] <= kl <= ordered[-1][0]:
        return math.nan
    roots, values = np.sqrt([point[0] for point in ordered]), np.array([point[1] for point in ordered])
    return float(start + math.sqrt(kl) * np.interp(math.sqrt(kl), roots, (values - start) / roots))


def quantile(freedom: int) -> float:
    """Of Student's distribution, for half of a 95 % interval; infinite without a degree of freedom."""
    from scipy.special import stdtrit  # jax brings scipy

    return float(stdtrit(freedom, 0.975)) if freedom > 0 else math.inf


def student(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half of Student's 95 % interval) of what seeds gave; the half is infinite for fewer than two."""
    if len(values) < 2:
        return float(np.sum(values)) if len(values) else math.nan, math.inf
    return float(np.mean(values)), quantile(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5


def pooled(levels: Mapping[str, Mapping[int, float]], *, common: bool) -> tuple[float, int]:
    """(standard deviation between seeds, its degrees of freedom) of method -> seed -> number, the same for all methods.

    Args:
      levels: each method and seed once.
      common: take out what a seed does to all methods alike, which differences of methods do not have.
    """
    places = [(method, seed) for method, by_seed in levels.items() for seed in by_seed]
    columns = [[place[0] == method for place in places] for method in levels]
    if common:
        columns += [[place[1] == seed for place in places] for seed in sorted({seed for _, seed in places})]
    design, values = np.array(columns, np.float64).T, np.array([levels[method][seed] for method, seed in places])
    if not places or (freedom := len(places) - int(np.linalg.matrix_rank(design))) < 1:
        return math.nan, 0
    rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return math.sqrt(float(rest @ rest) / freedom), freedom


def curves(cells: Sequence[dict], bases: Sequence[dict], *, metric: str | None = None) -> dict[tuple[str, str], dict[int, tuple]]:
    """(feedback, method) -> seed -> (gold of the base, points (KL, gold)); the gold is that of the feedback, or the metric given."""
    start = {base["seed"]: base for base in bases}
    found: dict = defaultdict(dict)
    for cell in cells:
        name = metric or gold_of(cell["feedback"])
        own = found[cell["feedback"], cell["method"]].setdefault(cell["seed"], (mean_of(start[cell["seed"]][name]), []))
        own[1].append((cell["kl"][0], mean_of(cell[name])))
    return dict(found)


def mean_of(measured):
    """The mean of (mean, standard error), or the number that has no error."""
    return measured[0] if isinstance(measured, Sequence) else measured


def prompt_errors(cells: Sequence[dict]) -> dict[tuple[str, str], float]:
    """(feedback, method) -> the standard error of its gold over prompts; 0 where every seed has prompts of its own.

    Then seeds differ by their prompts too. Of a difference of two methods on the same prompts these errors are the most that it can have.
    """
    squares, parts = defaultdict(list), defaultdict(dict)
    for cell in cells:
        key = cell["feedback"], cell["method"]
        squares[key].append(cell[gold_of(cell["feedback"])][1] ** 2)
        parts[key][cell["seed"]] = cell.get("part")
    own = {key: None not in by_seed.values() and len(set(by_seed.values())) == len(by_seed) for key, by_seed in parts.items()}
    return {key: 0.0 if own[key] else math.sqrt(float(np.mean(values))) for key, values in squares.items()}


def gold_of(feedback: str) -> str:
    """The gold that the feedback is about, as a metric: that of a proxy is the sentiment that it was fitted to."""
    return f"gold/{'sentiment' if feedback.startswith('proxy') else feedback.partition('-')[0]}"


def claims(cells: Sequence[dict], bases: Sequence[dict], *bands: Sequence[float]) -> list[Claim]:
    """All of CLAIMS whose two methods were measured with the same feedback, in each band of KLs that both reach.

    A claim whose methods meet in no band stands there once, without KLs.
    """
    told: list[Claim] = []
    for same in zip(*(_claims(cells, bases, kls) for kls in bands), strict=True):
        told += [one for one in same if one.kls] or same[:1]
    return told


def _claims(cells, bases, kls) -> list[Claim]:
    """All of CLAIMS at those of the KLs that both methods reach.

    The variance between seeds is pooled over the methods of a feedback, each counted once; that of prompts which seeds share is added.
    """
    found, errors, said = curves(cells, bases), prompt_errors(cells), []
    for feedback in dict.fromkeys(feedback for feedback, _ in found):
        own = {method: by_seed for (name, method), by_seed in found.items() if name == feedback}
        deviation, freedom = pooled({method: _level(by_seed, kls) for method, by_seed in own.items()}, common=True)
        for text, first, second in CLAIMS:
            if first in own and second in own:
                reached, gaps = _gaps(own[first], own[second], kls)
                mean, alone = student(gaps)
                half = math.inf
                if len(gaps) > 1 and freedom:
                    prompts = NORMAL * math.hypot(errors[feedback, first], errors[feedback, second])
                    half = math.hypot(quantile(freedom) * deviation * (2 / len(gaps)) ** 0.5, prompts)
                said.append(Claim(feedback, text, reached, mean, half, alone, len(own[first].keys() & own[second].keys())))
    return said


def _level(by_seed, kls):
    """seed -> the gold in the mean over those KLs that the method reaches with every seed."""
    values = np.array([[at_kl(*curve, kl) for kl in kls] for curve in by_seed.values()])
    reached = ~np.isnan(values).any(0)
    return dict(zip(by_seed, values[:, reached].mean(1), strict=True)) if reached.any() else {}


def _gaps(first, second, kls):
    """(KLs that both methods reach with every seed, difference of the golds in the mean over these for each seed)."""
    seeds = sorted(first.keys() & second.keys())
    gaps = np.array([[at_kl(*first[seed], kl) - at_kl(*second[seed], kl) for kl in kls] for seed in seeds]).reshape(-1, len(kls))
    reached = ~np.isnan(gaps).any(0) if seeds else np.zeros(len(kls), bool)
    there = tuple(kl for kl, both in zip(kls, reached, strict=True) if both)
    return there, gaps[:, reached].mean(1) if there else np.zeros(0)

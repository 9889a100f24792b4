"""From measured cells to claims: gold at equal KL, differences of methods seed by seed, tables and pictures.

Methods are compared at equal KL and never at an equal learning rate: the gold of a method at a KL is interpolated between its cells, and
the base at KL 0, linearly in the root of the KL. An interval is Student's over seeds; a seed has its own label noise, order of the data and
samples, and draws of its samples that all methods share.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
import math
from typing import NamedTuple

import numpy as np

KLS = (1.0, 2.0, 4.0)
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
    ("A-LoL above SFT on the best", "alol", "sft_best"),
    ("A-LoL above DPO", "alol", "dpo"),
    ("IFT above SFT, both on the best", "ift_best", "sft_best"),
    ("DPO above SFT on the best", "dpo", "sft_best"),
)
APPEARS, NOT, UNKNOWN = "appears", "does not: the reverse does", "cannot be told"


class Claim(NamedTuple):
    """A difference of two methods, in the mean over seeds and over those of KLS that both reach."""

    feedback: str
    claim: str
    kls: tuple[float, ...]
    difference: float
    half: float  # of the 95 % interval
    seeds: int

    @property
    def verdict(self) -> str:
        """What the interval shows."""
        if not abs(self.difference) > self.half:
            return UNKNOWN
        return APPEARS if self.difference > 0 else NOT


def at_kl(points: Sequence[tuple[float, float]], kl: float) -> float:
    """The gold at a KL between points (KL, gold), linearly in the root of the KL; NaN beyond the furthest."""
    ordered = sorted(points)
    roots, values = np.sqrt([max(0.0, point[0]) for point in ordered]), [point[1] for point in ordered]
    return float(np.interp(math.sqrt(kl), roots, values)) if kl <= ordered[-1][0] else math.nan


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half of Student's 95 % interval) of what seeds gave; the half is infinite with one seed."""
    from scipy.special import stdtrit  # jax brings scipy

    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return float(values.mean()), math.inf
    return float(values.mean()), float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / len(values) ** 0.5)


def curves(cells: Sequence[dict], bases: Sequence[dict], *, metric: str | None = None) -> dict[tuple[str, str], dict[int, list]]:
    """(feedback, method) -> seed -> points (KL, gold), the base among them; the gold is that of the feedback, or the metric given."""
    start = {base["seed"]: base for base in bases}
    found: dict = defaultdict(dict)
    for cell in cells:
        name = metric or gold_of(cell["feedback"])
        points = found[cell["feedback"], cell["method"]].setdefault(cell["seed"], [(0.0, start[cell["seed"]][name][0])])
        points.append((cell["kl"][0], cell[name][0]))
    return dict(found)


def gold_of(feedback: str) -> str:
    """The gold that the feedback is about, as a metric: that of a proxy is the sentiment that it was fitted to."""
    return f"gold/{'sentiment' if feedback.startswith('proxy') else feedback.partition('-')[0]}"


def claims(found: dict) -> list[Claim]:
    """All of CLAIMS whose two methods were measured with the same feedback."""
    made = []
    for feedback in dict.fromkeys(feedback for feedback, _ in found):
        for text, first, second in CLAIMS:
            if (feedback, first) in found and (feedback, second) in found:
                made.append(_claim(feedback, text, found[feedback, first], found[feedback, second]))
    return [claim for claim in made if claim is not None]


def _claim(feedback, text, first, second):
    seeds = sorted(first.keys() & second.keys())
    gaps = np.array([[at_kl(first[seed], kl) - at_kl(second[seed], kl) for kl in KLS] for seed in seeds]).reshape(-1, len(KLS))
    reached = ~np.isnan(gaps).any(0) if len(seeds) else np.zeros(len(KLS), bool)
    if not reached.any():
        return None
    mean, half = interval(gaps[:, reached].mean(1))
    return Claim(feedback, text, tuple(kl for kl, there in zip(KLS, reached, strict=True) if there), mean, half, len(seeds))


def tables(cells: Sequence[dict], bases: Sequence[dict], best: dict) -> dict:
    """Heading -> (columns, rows) of text: claims, gold at equal KL, cells."""
    found = curves(cells, bases)
    said = [
        [c.feedback, c.claim, ", ".join(f"{kl:g}" for kl in c.kls), f"{c.difference:+.3f} ± {c.half:.3f}", f"{c.seeds}", c.verdict]
        for c in claims(found)
    ]
    equal = [[feedback, method, *(_at(points, kl) for kl in KLS), f"{len(points)}"] for (feedback, method), points in found.items()]
    start = [["", "base", *["{:.3f} at KL 0".format(np.mean([base["gold/sentiment"][0] for base in bases]))], "", "", f"{len(bases)}"]]
    upper = [["", f"best of {n}, sentiment", f"{one['gold/sentiment']:.3f} at KL {one['kl']:.2f}", "", "", ""] for n, one in best.items()]
    return {
        "claims, at equal KL": (["feedback", "claim", "KL", "difference ± half of the 95 % interval", "seeds", ""], said),
        "gold at equal KL": (["feedback", "method", *(f"KL {kl:g}" for kl in KLS), "seeds"], [*equal, *start, *upper]),
        "cells, means over seeds": (
            ["feedback", "method", "learning rate", "seeds", "gold", "win", "KL", "length", "ended", "distinct-2", "proxy (of the base)"],
            [_cells(key, own) for key, own in _by_rate(cells).items()],
        ),
    }


def _at(points, kl):
    values = [at_kl(own, kl) for own in points.values()]
    if any(map(math.isnan, values)):
        return "-"
    mean, half = interval(values)
    return f"{mean:.3f} ± {half:.3f}" if math.isfinite(half) else f"{mean:.3f}"


def _by_rate(cells):
    found = defaultdict(list)
    for cell in cells:
        found[cell["feedback"], cell["method"], cell["learning_rate"]].append(cell)
    return dict(sorted(found.items()))


def _cells(key, own):
    feedback, method, rate = key

    def mean(name):
        return float(np.mean([cell[name][0] for cell in own]))

    shown = f"{mean('proxy'):.2f} ({mean('proxy_of_base'):.2f})" if "proxy" in own[0] else ""
    diversity = float(np.mean([cell["distinct_2"] for cell in own]))
    values = [f"{mean(gold_of(feedback)):.3f}", f"{mean('win'):.3f}", f"{mean('kl'):.2f}", f"{mean('length'):.1f}", f"{mean('ended'):.2f}"]
    return [feedback, method, f"{rate:g}", f"{len(own)}", *values, f"{diversity:.3f}", shown]


def panels(cells: Sequence[dict], bases: Sequence[dict], best: dict) -> list[tuple[str, str, str, Callable]]:
    """(title, x, y, draw) for `results.plot`: gold against KL for each feedback, the proxy where there is one, and length."""
    drawn = []
    for feedback in dict.fromkeys(cell["feedback"] for cell in cells):
        own = [cell for cell in cells if cell["feedback"] == feedback]
        upper = best if gold_of(feedback) in next(iter(best.values()), {}) else {}
        drawn.append((feedback, "KL, nats per response", "gold", _drawer(own, bases, gold_of(feedback), upper)))
        if "proxy" in own[0]:
            start = [{"seed": cell["seed"], "proxy": cell["proxy_of_base"]} for cell in own]
            drawn.append((feedback, "KL, nats per response", "proxy", _drawer(own, start, "proxy", {})))
    main = cells[0]["feedback"]
    lengths = _drawer([cell for cell in cells if cell["feedback"] == main], bases, "length", {})
    return [*drawn, (f"{main}: length", "KL, nats per response", "tokens", lengths)]


def _drawer(cells, bases, metric, upper):
    def draw(axes):
        for number, ((_, method), by_seed) in enumerate(curves(cells, bases, metric=metric).items()):
            for i, points in enumerate(by_seed.values()):
                places = np.array(sorted(points))
                label = method if i == 0 else None
                axes.plot(places[:, 0], places[:, 1], color=f"C{number % 10}", marker=".", linewidth=1, alpha=0.7, label=label,
                          linestyle="-" if number < 10 else "--")  # fmt: skip
        if upper:
            axes.plot([one["kl"] for one in upper.values()], [one[metric] for one in upper.values()], "k--", label="best of n")
        axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))

    return draw

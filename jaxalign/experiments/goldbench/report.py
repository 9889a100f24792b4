"""From measured cells to claims: gold at equal KL, differences of methods seed by seed, tables and pictures.

Methods are compared at equal KL and never at an equal learning rate: the gold of a method at a KL is interpolated between its cells, and
the base at KL 0, linearly in the root of the KL. An interval is Student's over seeds; a seed has its own label noise, order of the data and
samples, which all methods share.
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
    ("online DPO above DPO", "online_dpo", "dpo"),
    ("online UNA above UNA on scores", "online_una", "una_score"),
    ("online UNA above PPO", "online_una", "ppo"),
    ("online DPO above PPO", "online_dpo", "ppo"),
    ("RLOO above PPO", "rloo", "ppo"),
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
        """What the interval shows; one seed shows nothing."""
        if self.seeds < 2 or not abs(self.difference) > self.half:
            return UNKNOWN
        return APPEARS if self.difference > 0 else NOT


def at_kl(points: Sequence[tuple[float, float]], kl: float) -> float:
    """The gold at a KL between points (KL, gold), linearly in the root of the KL; NaN beyond the furthest."""
    ordered = sorted(points)
    roots, values = np.sqrt([max(0.0, point[0]) for point in ordered]), [point[1] for point in ordered]
    return float(np.interp(math.sqrt(kl), roots, values)) if kl <= ordered[-1][0] else math.nan


def intervals(groups: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """(mean, half of Student's 95 % interval) of what seeds gave, for each group; the half is infinite where no group has two seeds.

    The variance between seeds is pooled over the groups: most of it is that of the samples, which are as many in every cell.
    """
    from scipy.special import stdtrit  # jax brings scipy

    arrays = [np.asarray(group, np.float64) for group in groups]
    freedom = sum(len(values) - 1 for values in arrays)
    if not freedom:
        return [(float(values.mean()), math.inf) for values in arrays]
    deviation = math.sqrt(sum(((values - values.mean()) ** 2).sum() for values in arrays) / freedom)
    quantile = float(stdtrit(freedom, 0.975))
    return [(float(values.mean()), quantile * deviation / len(values) ** 0.5) for values in arrays]


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
    """All of CLAIMS whose two methods were measured with the same feedback and share a KL of KLS."""
    named, gaps = [], []
    for feedback in dict.fromkeys(feedback for feedback, _ in found):
        for text, first, second in CLAIMS:
            if (feedback, first) in found and (feedback, second) in found:
                kls, values = _gaps(found[feedback, first], found[feedback, second])
                if kls:
                    named.append((feedback, text, kls))
                    gaps.append(values)
    return [Claim(*name, *one, len(values)) for name, one, values in zip(named, intervals(gaps), gaps, strict=True)]


def _gaps(first, second):
    """(KLs that both methods reach with every seed, difference of the golds in the mean over these for each seed)."""
    seeds = sorted(first.keys() & second.keys())
    gaps = np.array([[at_kl(first[seed], kl) - at_kl(second[seed], kl) for kl in KLS] for seed in seeds]).reshape(-1, len(KLS))
    reached = ~np.isnan(gaps).any(0) if seeds else np.zeros(len(KLS), bool)
    kls = tuple(kl for kl, there in zip(KLS, reached, strict=True) if there)
    return kls, gaps[:, reached].mean(1) if kls else gaps


def tables(cells: Sequence[dict], bases: Sequence[dict], best: dict) -> dict:
    """Heading -> (columns, rows) of text: claims, gold at equal KL, cells."""
    found = curves(cells, bases)
    said = [
        [c.feedback, c.claim, ", ".join(f"{kl:g}" for kl in c.kls), f"{c.difference:+.3f} ± {c.half:.3f}", f"{c.seeds}", c.verdict]
        for c in claims(found)
    ]
    columns = [_at(found.values(), kl) for kl in KLS]
    equal = [[*key, *shown, f"{len(found[key])}"] for key, *shown in zip(found, *columns, strict=True)]
    start = [["", "base", *["{:.3f} at KL 0".format(np.mean([base["gold/sentiment"][0] for base in bases]))], "", "", f"{len(bases)}"]]
    upper = [["", f"best of {n}, sentiment", f"{one['gold/sentiment']:.3f} at KL {one['kl']:.2f}", "", "", ""] for n, one in best.items()]
    return {
        "claims, at equal KL": (["feedback", "claim", "KL", "difference ± half of the 95 % interval", "seeds", ""], said),
        "gold at equal KL": (["feedback", "method", *(f"KL {kl:g}" for kl in KLS), "seeds"], [*equal, *start, *upper]),
        "cells, means over seeds": (
            [
                "feedback",
                "method",
                "learning rate",
                "seeds",
                "gold",
                "win",
                "KL",
                "length",
                "ended",
                "distinct-2",
                "proxy (of the base)",
                "training, CPU s",
            ],
            [_cells(key, own) for key, own in _by_rate(cells).items()],
        ),
    }


def _at(curves_by_seed, kl):
    """Text for each curve: the gold at a KL with its interval, "-" where a seed does not reach it."""
    values = [[at_kl(points, kl) for points in by_seed.values()] for by_seed in curves_by_seed]
    known = [own for own in values if not any(map(math.isnan, own))]
    shown = iter(intervals(known))
    return ["-" if any(map(math.isnan, own)) else "{:.3f} ± {:.3f}".format(*next(shown)).replace(" ± inf", "") for own in values]


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
    seconds = np.median([cell["seconds"]["train"] for cell in own])
    return [feedback, method, f"{rate:g}", f"{len(own)}", *values, f"{diversity:.3f}", shown, f"{seconds:.0f}"]


def panels(cells: Sequence[dict], bases: Sequence[dict], best: dict) -> list[tuple[str, str, str, Callable]]:
    """(title, x, y, draw) for `results.plot`: gold against KL for each feedback, the proxy where there is one, and length."""
    drawn = []
    for feedback in dict.fromkeys(cell["feedback"] for cell in cells):
        own = [cell for cell in cells if cell["feedback"] == feedback]
        upper = best if gold_of(feedback) in next(iter(best.values()), {}) else {}
        drawn.append((feedback, "KL, nats per response", "gold", _drawer(own, bases, gold_of(feedback), upper)))
        if "proxy" in own[0]:
            start = [{"proxy": cell["proxy_of_base"]} for cell in own]
            drawn.append((f"{feedback}: its own reward", "KL, nats per response", "proxy", _drawer(own, start, "proxy", {})))
    main = cells[0]["feedback"]
    lengths = _drawer([cell for cell in cells if cell["feedback"] == main], bases, "length", {})
    return [*drawn, (f"{main}: length", "KL, nats per response", "tokens", lengths)]


def _drawer(cells, bases, metric, upper):
    start = float(np.mean([base[metric][0] for base in bases]))
    places = defaultdict(list)  # (method, learning rate) -> (KL, number) of every seed
    for cell in cells:
        places[cell["method"], cell["learning_rate"]].append((cell["kl"][0], cell[metric][0]))

    def draw(axes):
        for number, method in enumerate(dict.fromkeys(method for method, _ in places)):
            every = [np.array(points) for (own, _), points in places.items() if own == method]
            line = np.array(sorted([(0.0, start), *(tuple(points.mean(0)) for points in every)]))
            style = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--"}
            axes.plot(line[:, 0], line[:, 1], linewidth=1, label=method, **style)
            axes.plot(*np.concatenate(every).T, marker=".", linestyle="", color=style["color"], alpha=0.5)
        if upper:
            axes.plot([one["kl"] for one in upper.values()], [one[metric] for one in upper.values()], "k:", label="best of n")
        axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
        axes.set_xlim(left=0)

    return draw

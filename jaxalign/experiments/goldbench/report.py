"""From measured cells to tables and pictures; what is claimed of them is in `claims`."""

from collections import defaultdict
from collections.abc import Callable, Sequence
import math

import numpy as np

from jaxalign.experiments.goldbench import methods
from jaxalign.experiments.goldbench.claims import (
    BANDS,
    FAR,
    KLS,
    NORMAL,
    at_kl,
    claims,
    curves,
    gold_of,
    pooled,
    prompt_errors,
    quantile,
    student,
)


def tables(cells: Sequence[dict], bases: Sequence[dict], best: dict) -> dict:
    """Heading -> (columns, rows) of text: claims, gold at equal KL, cells."""
    found, errors, told = curves(cells, bases), prompt_errors(cells), claims(cells, bases, *BANDS)
    far = [claim for claim in claims(cells, bases, FAR) if claim.kls]
    columns = ["feedback", "claim", "KL", "difference ± half of the 95 % interval", "from its own seeds alone", "seeds", ""]
    equal, diverse = _equal(found, errors), _equal(curves(cells, bases, metric="distinct_2"), dict.fromkeys(found, 0.0))
    rest = [""] * (len(KLS) - 1)
    start = [["", "base", "{:.3f} at KL 0".format(np.mean([base["gold/sentiment"][0] for base in bases])), *rest, f"{len(bases)}"]]
    upper = [["", f"best of {n}, sentiment", f"{x['gold/sentiment']:.3f} at KL {x['kl']:.2f} at most", *rest, ""] for n, x in best.items()]
    return {
        f"claims, at equal KL: {len(told)}, of which one in twenty appears by chance": (columns, [_said(claim) for claim in told]),
        **({f"claims further from the start: {len(far)}": (columns, [_said(claim) for claim in far])} if far else {}),
        "gold at equal KL": (["feedback", "method", *(f"KL {kl:g}" for kl in KLS), "seeds"], [*equal, *start, *upper]),
        "diversity (distinct-2) at equal KL": (["feedback", "method", *(f"KL {kl:g}" for kl in KLS), "seeds"], diverse),
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


def _said(claim):
    kls = ", ".join(f"{kl:g}" for kl in claim.kls) or "-"
    about = [_about(claim.difference, half) for half in (claim.half, claim.alone)]
    return [claim.feedback, claim.claim, kls, *about, f"{claim.seeds}", claim.verdict]


def _equal(found, errors):
    """Rows: (feedback, method), what `_at` says of each of KLS, seeds."""
    columns = [_at(found, errors, kl) for kl in KLS]
    return [[*key, *(column[key] for column in columns), f"{len(found[key])}"] for key in found]


def _at(found, errors, kl):
    """(feedback, method) -> text: the gold at a KL with its interval, "-" where a seed has no cells on both sides of it.

    Half of the interval is the larger of that with a variance that all methods share and that of the method's own seeds, as in `claims`.
    """
    values = {key: {seed: at_kl(*curve, kl) for seed, curve in by_seed.items()} for key, by_seed in found.items()}
    known = {key: own for key, own in values.items() if not any(map(math.isnan, own.values()))}
    shown = dict.fromkeys(found, "-")
    for key, own in known.items():
        deviation, freedom = pooled({method: levels for (name, method), levels in known.items() if name == key[0]}, common=False)
        mean, alone = student(list(own.values()))
        shared = quantile(freedom) * deviation / len(own) ** 0.5 if freedom else math.inf
        shown[key] = _about(mean, math.hypot(max(shared, alone), NORMAL * errors[key]), sign="")
    return shown


def _about(value, half, *, sign="+"):
    """Text: a number and half of its interval, where there are such."""
    if math.isnan(value):
        return "-"
    return f"{value:{sign}.3f}" + (f" ± {half:.3f}" if math.isfinite(half) else "")


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
    """(title, x, y, draw) for `results.write`: gold against KL for each feedback, the proxy where there is one, and length."""
    drawn = []
    cells = [cell for cell in cells if not methods.named(cell["method"]).other] or cells  # others are trained for another reward
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
            axes.plot([one["kl"] for one in upper.values()], [one[metric] for one in upper.values()], "k:", label="best of n (KL at most)")
        axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
        axes.set_xlim(left=0)

    return draw

"""What is made of the curves of `teacher_hacking`: a summary of each, the table, and the plot."""

from functools import partial
from pathlib import Path

import numpy as np

from jaxalign.evaluators.hacking import Curve, smoothed
from jaxalign.experiments.parts import results

EARLY, LATE = (1 / 24, 1 / 6), (1 / 3, 1)  # shares of the steps between which the slopes of the proxy are fitted
WINDOW = 1  # points of the smoothing before flags are raised: measurements are 200 steps apart, on the same texts
ALARM = 0.25  # of the early slope: with a late one less steep than that the detector without an oracle says hacking


def summary(curve: Curve) -> dict:
    """The curve, and: least and final golden, final proxy, first step flagged with the oracle (None: none), slopes, their ratio, `alarm`.

    What cannot be told is None: a slope needs two points.
    """
    flags = curve.flags(window=WINDOW)
    early, late = (curve.slope(*span(curve, shares)) for shares in (EARLY, LATE))
    return {
        "steps": list(curve.steps),
        "proxy": list(curve.proxy),
        "golden": list(curve.golden),
        "golden_least": float(min(curve.golden)),
        "golden_final": float(curve.golden[-1]),
        "proxy_final": float(curve.proxy[-1]),
        "rise": curve.rise(),
        "first_flag": int(np.asarray(curve.steps)[flags][0]) if flags.any() else None,
        "slopes": [_known(early), _known(late)],
        "slope_ratio": _known(late / early),
        "alarm": alarm(early, late),
    }


def span(curve: Curve, shares: tuple[float, float]) -> tuple[float, float]:
    """Shares of a curve's steps as steps."""
    return shares[0] * curve.steps[-1], shares[1] * curve.steps[-1]


def alarm(early: float, late: float) -> bool | None:
    """Whether slopes of log proxy look like hacking: it fell early and has nearly stopped, or it rises late; None where one is NaN."""
    if np.isnan([early, late]).any():
        return None
    return bool(late >= 0 or (early < 0 and late > ALARM * early))


def _known(number):
    return float(number) if np.isfinite(number) else None


def write(workdir: Path, seeds: dict, arms: tuple, *, oracle_entropy: float) -> dict:
    """Writes table.md, results.json and plot.png; returns what is in results.json."""
    final = {arm: float(np.mean([found[arm]["golden_final"] for found in seeds.values()])) for arm in arms}
    everything = {"golden_final": final, "oracle_entropy": oracle_entropy, "seeds": seeds}
    columns = ["arm", "golden, least", "golden, final", "proxy, final", "rise", "first flag", "late / early slope of proxy", "alarm"]
    rows = [[arm, *_cells([found[arm] for found in seeds.values()])] for arm in arms]
    starts = [found["start"] for found in seeds.values()]
    begin = ["before distillation", "", *(" / ".join(f"{start[name]:.2f}" for start in starts) for name in ("golden", "proxy")), *[""] * 4]
    what = "golden of the teacher, least of its checkpoints on these texts: a little low"
    floor = [what, "", " / ".join(f"{start['floor']:.2f}" for start in starts), *[""] * 5]
    tables = {"nats per text, by seed": (columns, [*rows, begin, floor])}
    panels = [
        ("proxy and golden", "proxy: KL(teacher || student), falling", "golden: KL(oracle || student)", partial(_draw_plane, seeds, arms)),
        ("with the oracle: o least, x flagged in most seeds", "step", "golden", partial(_draw_golden, seeds, arms)),
        ("without it: proxy and its early power law", "step", "proxy", partial(_draw_proxy, seeds, arms)),
    ]  # fmt: skip
    results.write(workdir, title="Teacher hacking", tables=tables, results=everything, panels=panels)
    return everything


def _cells(found: list[dict]) -> list[str]:
    def joined(name, form):
        return " / ".join("-" if one[name] is None else format(one[name], form) for one in found)

    alarms = " / ".join({None: "-", True: "yes", False: "no"}[one["alarm"]] for one in found)
    forms = {"golden_least": ".2f", "golden_final": ".2f", "proxy_final": ".2f", "rise": "+.1%", "first_flag": "d", "slope_ratio": ".2f"}
    return [*(joined(*pair) for pair in forms.items()), alarms]


def _mean(seeds, arm, name):
    return np.mean([found[arm][name] for found in seeds.values()], axis=0)


def _draw_plane(seeds, arms, axes):
    for number, arm in enumerate(arms):
        axes.plot(_mean(seeds, arm, "proxy"), _mean(seeds, arm, "golden"), color=f"C{number}", label=arm)
    axes.axhline(np.mean([found["start"]["floor"] for found in seeds.values()]), color="black", linestyle=":", label="the teacher's golden")
    axes.invert_xaxis()


def _draw_golden(seeds, arms, axes):
    for number, arm in enumerate(arms):
        steps, golden = (_mean(seeds, arm, name) for name in ("steps", "golden"))
        axes.plot(steps, golden, color=f"C{number}", label=arm)
        axes.plot(steps[golden.argmin()], golden.min(), "o", color=f"C{number}")
        own = [Curve(*(found[arm][name] for name in ("steps", "proxy", "golden"))).flags(window=WINDOW) for found in seeds.values()]
        flags = np.mean(own, axis=0) > 0.5
        axes.plot(steps[flags], smoothed(golden, WINDOW)[flags], "x", color=f"C{number}")
    axes.set_xscale("log")


def _draw_proxy(seeds, arms, axes):
    for number, arm in enumerate(arms):
        curve = Curve(*(_mean(seeds, arm, name) for name in ("steps", "proxy")))
        early, late = span(curve, EARLY), span(curve, LATE)
        inside = np.asarray(curve.steps) >= early[0]
        law = np.exp(np.log(curve.proxy) - curve.deviation(*early))
        axes.plot(curve.steps, curve.proxy, color=f"C{number}", label=f"{arm}: {curve.slope_ratio(early, late):.2f}")
        axes.plot(np.asarray(curve.steps)[inside], law[inside], color=f"C{number}", linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")

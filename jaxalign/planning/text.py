"""A plan as text for a terminal."""

from collections.abc import Iterable, Mapping
import itertools
import math
from typing import Any

from jaxalign.planning.program import Collective

GIB = 2**30


def lines(plan: Mapping[str, Any]) -> list[str]:
    """The lines of a plan, as `config.planning.plan` gives it."""
    memory, capacity = plan["memory_gib"], plan["capacity_gib"]
    total = plan["total_gib"]
    verdict = "fits" if plan["fits"] else "DOES NOT FIT"
    out = [
        f"{plan['what']} on {plan['topology']}: {plan['chips']:,} chips, mesh {mesh(plan['mesh'])}",
        f"shape {plan['shape']}; rows: {plan['rows']}",
        f"batch {plan['batch']}",
        "",
        f"memory per device {amount(total).strip()} of {capacity:.2f} GiB, {verdict} ({plan['by']})",
        *(f"  {name:<12} {amount(value)}  {'#' * round(40 * value / max(capacity, total))}" for name, value in memory.items()),
        "",
        f"arithmetic per device {plan['flops']['executed'] / 1e12:.4g} TFLOP, necessary {plan['flops']['necessary'] / 1e12:.4g}: "
        f"{plan['flops']['executed'] / plan['flops']['necessary']:.2f} times",
        *collective_lines(plan["collectives"]),
        "",
        "a step takes at least " + ", ".join(_bounds(plan)) + f": {plan['limit']}",
        f"forecast {plan['step_s']:.3g} s per step ({plan['step_by']}), {plan['tokens_per_s']:,.0f} tokens/s, "
        f"MFU {plan['mfu_forecast']:.1%}",
        _hours(plan),
        *(f"note: {note}" for note in plan["notes"]),
    ]
    return out


def collective_lines(collectives: list[dict]) -> list[str]:
    """A line for each kind, axis and loop, most bytes first, and before them those that use the network."""
    if not collectives:
        return ["collectives: none"]
    total = sum(one["gib"] for one in collectives)
    hidden, network = (sum(one[name] for one in collectives) for name in ("asynchronous_gib", "network_gib"))
    out = [f"collectives per device {amount(total).strip()} sent" + (f", {hidden / total:.0%} of it asynchronous" if hidden else "")]
    out[0] += f", {amount(network).strip()} of it over the network" if network else ""
    large = [one for one in collectives if one["gib"] >= 0.005 * total or one["network_gib"] >= 0.05 * network > 0]
    shown = sorted(large, key=lambda one: (one["network_gib"] == 0, -one["gib"]))[:8]  # the network first, as it is the slowest
    for one in shown:
        share = f", {one['asynchronous_gib'] / one['gib']:.0%} asynchronous" if one["asynchronous_gib"] else ""
        share += f", {one['network_gib'] / one['gib']:.0%} over the network" if one["network_gib"] else ""
        where = f"{one['kind']:<18} {'+'.join(one['axes']):<12} {one['loop'] or '(once)':<14}"
        out.append(f"  {where} {amount(one['gib'])} in {one['times']:,.0f}{share}")
    return out


def grouped(collectives: Iterable[Collective], *, asynchronous: Iterable[bool] = ()) -> list[dict]:
    """Collectives summed by kind, axes and loop; asynchronous: of each, whether other work runs meanwhile, where that is known."""
    sums: dict[tuple, dict] = {}
    for one, hidden in itertools.zip_longest(collectives, asynchronous, fillvalue=False):
        start = {"kind": one.kind, "axes": list(one.axes), "loop": one.loop, "gib": 0.0, "times": 0.0}
        start |= {"asynchronous_gib": 0.0, "network_gib": 0.0}
        entry = sums.setdefault((one.kind, one.axes, one.loop), start)
        sent = one.sent_bytes * one.times / GIB
        entry["gib"] += sent
        entry["times"] += one.times
        entry["asynchronous_gib"] += sent * hidden
        entry["network_gib"] += sent * one.network
    return list(sums.values())


def table(plans: list[Mapping[str, Any]], failed: Iterable[Mapping[str, str]] = ()) -> list[str]:
    """A line for each of several plans, with the cost where a price was given, and for each that failed: {"name", "problem"}."""
    out = [f"{'mesh':<32} {'parts':>5} {'remat':<9} {'GiB':>8} {'fits':<5} {'step s':>8} {'tokens/s':>12} {'MFU':>6}"]
    for plan in plans:
        fits = "yes" if plan["fits"] else "no"
        shape = f"{mesh(plan['mesh']):<32} {plan['microbatches']:>5} {plan['remat']:<9} {plan['total_gib']:>8.2f} {fits:<5}"
        out.append(f"{shape} {plan['step_s']:>8.3g} {plan['tokens_per_s']:>12,.0f} {plan['mfu_forecast']:>6.1%}")
    if _priced(plans):
        out = [f"{line} {cell:>10}" for line, cell in zip(out, ["cost", *map(_cost, plans)], strict=True)]
    out = [f"{line}  {cell}" for line, cell in zip(out, ["limit", *(plan["limit"] for plan in plans)], strict=True)]
    return [*out, *(f"{one['name']:<32} cannot be planned: {one['problem']}" for one in failed)]


def by_topology(plans: list[Mapping[str, Any]], failed: Iterable[Mapping[str, str]] = ()) -> list[str]:
    """A table in Markdown with a line for each of several plans: memory per device by cause, verdict, bound and forecast.

    Where a price was given the last column is the cost. After them is a line for each that failed: {"name", "problem"}.
    """
    causes = list(plans[0]["memory_gib"])
    heads = ["topology", "mesh", "rows", "remat", *causes, "GiB", "of", "fits", "sent GiB", *plans[0]["bound_s"]]
    heads += ["step s", "tokens/s", "MFU", *(["cost"] if _priced(plans) else [])]
    out = [heads, ["---"] * len(heads)]
    for plan in plans:
        numbers = [*plan["memory_gib"].values(), plan["total_gib"], plan["capacity_gib"]]
        sent = sum(one["gib"] for one in plan["collectives"])
        seconds = [f"{value:.2g}" for value in plan["bound_s"].values()]
        rows = f"{plan['batch_rows']:,}" + (f" in {plan['microbatches']} parts" if plan["microbatches"] > 1 else "")
        speed = [f"{plan['step_s']:.3g}", f"{plan['tokens_per_s']:,.0f}", f"{plan['mfu_forecast']:.0%}"]
        verdict = ["yes" if plan["fits"] else "no", f"{sent:.1f}"]
        known = [plan["topology"], mesh(plan["mesh"]), rows, plan["remat"]]
        cost = [_cost(plan)] if _priced(plans) else []
        out.append([*known, *(f"{value:.1f}" for value in numbers), *verdict, *seconds, *speed, *cost])
    for one in failed:
        words = f"cannot be planned: {one['problem']}".replace("|", "\\|").replace("\n", " ")
        out.append([one["name"], words, *[""] * (len(heads) - 2)])
    return [f"| {' | '.join(cells)} |" for cells in out]


def amount(gib: float) -> str:
    """An amount of memory in a unit that suits it."""
    return f"{gib:8.2f} GiB" if gib >= 0.1 or not gib else f"{gib * 1024:8.2f} MiB"


def mesh(sizes: Mapping[str, int]) -> str:
    """The axes of a mesh that have more than one device."""
    return " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "of one device"


def _bounds(plan):
    return [f"{name} {seconds:.3g} s" for name, seconds in plan["bound_s"].items() if seconds or name != "network"]


def _priced(plans) -> bool:
    return plans[0]["price"] is not None


def _cost(plan) -> str:
    cost = plan["cost"]
    return "not known" if cost is None else f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"


def _hours(plan):
    if plan["hours"] is None:
        return "hours: not known, as the length of the run is in epochs and its rows are not here; set train.total_steps"
    cost = "" if plan["cost"] is None else f", {_cost(plan)} at the price given"
    digits = 1 if plan["hours"] >= 1 else 1 - math.floor(math.log10(max(plan["hours"], 1e-9)))
    return f"run of {plan['steps']:,} steps: {plan['hours']:,.{digits}f} hours, {plan['chip_hours']:,.{digits}f} chip-hours{cost}"

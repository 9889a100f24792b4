"""What the times of a comparison mean: tokens per second, ratios with their spread, MFU."""

import statistics

from tests.benchmarks.compare import workload
from tests.benchmarks.compare.cases import Case


def add_speeds(result: dict, case: Case, folder, steps: list[list[workload.Pair]], *, block: int) -> None:
    """Adds to every side its speeds, and to the result the ratios of the peer to ours; nothing where nothing was timed."""
    timed = [sum(steps[at : at + block], []) for at in range(workload.CHECKED, len(steps), block)]
    useful = [sum(pair.useful for pair in pairs) for pairs in timed]
    for side in result["sides"].values():
        if not side["blocks"]:
            continue
        done = list(zip(useful, side["blocks"], strict=False))
        side["tokens_per_s"] = statistics.median(tokens / one["wall"] for tokens, one in done)
        side["tokens_per_cpu_s"] = statistics.median(tokens / one["cpu"] for tokens, one in done)
        side["step_s"] = statistics.median(one["wall"] for one in side["blocks"]) / block
        side["memory_gib"] = max(one["memory"] for one in side["blocks"]) / 2**30
        side |= _mfu(case, folder, timed, side)
    ours, *peers = result["sides"].values() or [None]
    for peer in peers:
        if ours["blocks"] and peer["blocks"]:
            for kind, key in (("speed_ratio", "wall"), ("cpu_speed_ratio", "cpu")):
                ratios = [b[key] / a[key] for a, b in zip(ours["blocks"], peer["blocks"], strict=False)]
                result[kind] = statistics.median(ratios)
                result[f"{kind}_spread"] = [min(ratios), max(ratios)]
            result["memory_ratio"] = ours["memory_gib"] / peer["memory_gib"]


def _mfu(case, folder, timed, side):
    """{"mfu", "mfu_sequences"} of a side on the card that it names, or of its own rate of matrix products; {} where neither is known."""
    from jaxalign import chips
    from jaxalign.hf.load import load_config

    chip = chips.of_device(side["device"])
    peak = side.get("gemm_flops") or (chip and chip.flops)
    if not peak:
        return {}
    config, seconds = load_config(folder), sum(one["wall"] for one in side["blocks"])
    shares = {}
    for name, shared in (("mfu", True), ("mfu_sequences", False)):
        done = sum(_flops(config, case, pairs, shared=shared) for pairs, _ in zip(timed, side["blocks"], strict=False))
        shares[name] = done / seconds / peak
    return shares


def _flops(config, case: Case, pairs: list[workload.Pair], *, shared: bool) -> float:
    """FLOPs that these pairs need; `shared`: a prompt once for all its answers."""
    from jaxalign.reports.flops import forward_flops

    tokens = scored = seen = 0
    for pair in pairs:
        prompt = len(pair.prompt)
        tokens += sum(map(len, pair.answers)) + prompt * (1 if shared else len(pair.answers))
        seen += sum(prompt * len(one) + len(one) * (len(one) + 1) // 2 for one in pair.answers)
        seen += prompt * (prompt + 1) // 2 * (1 if shared else len(pair.answers))
        scored += pair.scored
    forward = forward_flops(config, tokens=tokens, scored=scored, seen=seen)
    reference = 0 if case.method == "sft" or case.precomputed else 1
    kinds = 2 if case.rank else 3  # frozen weights have no gradient of their own; that of attention is too small to tell apart
    mismatched = 2 if case.method == "kto" else 0  # forward passes of policy and reference over the answers of other prompts
    return forward * (kinds + reference + mismatched)


def table(result: dict) -> str:
    """The result for a reader."""
    lines = [f"{result['case']} on {result['machine']}, load {result['load'][0]:.1f}, {result['date']}"]
    columns = ("step_s", "tokens_per_s", "tokens_per_cpu_s", "memory_gib", "mfu", "mfu_sequences")
    lines += ["| side | " + " | ".join(columns) + " | start: imports, weights, compile s |", "|---" * (len(columns) + 2) + "|"]
    for name, side in result["sides"].items():
        started = ", ".join(f"{x:.1f}" for x in side["seconds"].values())
        cells = [f"{side[column]:,.3f}" if column in side else "" for column in columns]
        lines.append(f"| {name} ({side['device']}) | " + " | ".join(cells) + f" | {started} |")
    if "apart" in result:
        lines.append(f"losses apart by {result['apart']:.2g} (tolerance {result['tolerance']:.2g})")
    for name in ("speed_ratio", "cpu_speed_ratio", "memory_ratio"):
        if name in result:
            low, high = result.get(f"{name}_spread", (result[name],) * 2)
            lines.append(f"{name} {result[name]:.2f} ({low:.2f} to {high:.2f})")
    return "\n".join(lines)

"""Speed and memory of a training step beside another library's, on the same weights and the same pairs in the same order.

    python -m tests.benchmarks.compare --peer trl|torch|tunix --case NAME [--json FILE]

Each side has a process of its own, which waits while the other works. First both take some steps whose losses are compared; where these
differ by more than the tolerance nothing is timed. Then blocks of steps alternate: A B A B. Useful tokens are those of every sequence, the
prompt once per answer, without padding, whatever a side computes. speed_ratio is the peer's time over ours (above 1: we are faster),
memory_ratio our peak over the peer's. Spread is the smallest and the largest ratio of neighbouring blocks.

MFU, on a card of the table in `jaxalign/chips.py`: the FLOPs that the mathematics needs, over seconds and the bf16 peak; on a CPU, of our
side, over the rate of a product of 2,048 x 2,048 float32 matrices, measured at its start. A trained matmul weight costs 6 FLOPs per token
and 4 where it is frozen under adapters, the reference's forward pass 2, attention 4 per layer, head width and visible key in a forward
pass and twice that in a backward pass; the head counts on scored tokens alone. `mfu` counts a shared prompt once, `mfu_sequences` once per
answer, as if every sequence stood alone.
"""

import argparse
import dataclasses
from datetime import UTC, datetime
import json
import os
from pathlib import Path
import platform
import sys
import tempfile

from tests.benchmarks.compare import report, tunix_trainer, weights, workload
from tests.benchmarks.compare.cases import CASES, Case
from tests.benchmarks.compare.link import Side

PEERS = {"trl": "trl_trainers", "torch": "torch_loop", "tunix": "tunix_trainer"}
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}  # of losses and log-probs, relative to 1 + their size


def main() -> int:
    """Compares one case; the exit code is 1 where the losses differ."""
    asked = _arguments()
    case = dataclasses.replace(CASES[asked.case], **dict(setting(one) for one in asked.case_set))
    if asked.peer == "tunix" and (problem := tunix_trainer.problem(case, asked.device)):
        raise SystemExit(problem)
    with tempfile.TemporaryDirectory() as there:
        result = compare(case, asked, Path(there))
    print(report.table(result), flush=True)
    _write(asked, result)
    return 0 if result.get("equal") and "failed" not in result else 1


def compare(case: Case, asked, there: Path) -> dict:
    """Everything that was measured, as it goes to the JSON file."""
    names = ["ours", *([] if asked.peer == "none" else [asked.peer])]
    folder = asked.checkpoint or _weights(case, there)
    steps = workload.CHECKED + asked.block * asked.rounds
    if asked.pairs:
        pairs = workload.from_file(asked.pairs, case, steps=steps, tokenizer=folder, most=asked.most)
    else:
        pairs = workload.generated(case, steps=steps, seed=asked.seed)
    workload.write(there / "pairs.json", pairs)
    request = {
        "case": dataclasses.asdict(case),
        "folder": str(folder),
        "pairs": str(there / "pairs.json"),
        "block": asked.block,
        "device": asked.device,
        "settings": dict(setting(one) for one in asked.set),
    }
    result = {
        "case": asked.case,
        **{key: request[key] for key in ("device", "settings")},
        "shape": request["case"],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load": os.getloadavg(),
        "command": " ".join(sys.argv[1:]),
        "sides": {},
    }
    logs = Path(asked.logs) if asked.logs else there
    run = _one_after_the_other if asked.one_at_a_time else _alternating
    run(names, request, asked, logs, result, TOLERANCE[case.dtype] if asked.tolerance is None else asked.tolerance)
    report.add_speeds(result, case, folder, pairs, block=asked.block)
    return result


def _alternating(names, request, asked, logs, result, tolerance):
    sides = {}
    try:
        for name in names:  # one after the other: what a start takes is told too
            sides[name] = _start(name, request, logs)
            _check(name, sides[name], result)
        if _equal(result, tolerance):
            for _ in range(asked.rounds):
                for name, side in sides.items():
                    _time(name, side, asked, result)
    finally:
        for side in sides.values():
            side.close()


def _one_after_the_other(names, request, asked, logs, result, tolerance):
    for name in names:
        side = _start(name, request, logs)
        try:
            _check(name, side, result)
            if _equal(result, tolerance):
                for _ in range(asked.rounds):
                    _time(name, side, asked, result)
        except RuntimeError as error:  # what the first side gave is not lost
            result["failed"] = {name: str(error)}
            print(error, flush=True)
        finally:
            side.close()


def _start(name, request, logs):
    return Side(PEERS.get(name, name), request, logs / f"{name}.log")


def _check(name, side, result):
    ready = side.hear()
    one_by_one = [side.steps(1) for _ in range(workload.CHECKED)]
    first = {"losses": [one["losses"][0] for one in one_by_one], "logps": one_by_one[0]["logps"]}
    result["sides"][name] = {**ready, **first, "first_steps_s": [one["wall"] for one in one_by_one], "blocks": []}
    print(f"{name}: losses {first['losses']}, log-probs {first['logps']}", flush=True)


def _equal(result, tolerance):
    """Whether the losses and log-probs that both sides gave are the same; it is noted in the result."""
    values = [[*side["losses"], *side["logps"]] for side in result["sides"].values()]
    # adapters start as random numbers, which each side draws itself: only what precedes the first update is the same
    compared = [0, *range(workload.CHECKED, min(map(len, values)))] if result["shape"]["rank"] else range(min(map(len, values)))
    apart = max((abs(one[i] - values[0][i]) / (1 + abs(values[0][i])) for one in values for i in compared), default=0.0)
    result |= {"apart": apart, "tolerance": tolerance, "equal": apart <= tolerance}
    if not result["equal"]:
        print(f"the sides differ by {apart:.2g}, more than {tolerance:.2g}: nothing is timed.", flush=True)
    return result["equal"]


def _time(name, side, asked, result):
    block = side.steps(asked.block)
    result["sides"][name]["blocks"].append(block)
    _write(asked, result)  # a process that is ended keeps what it has
    print(f"{name}: {block['wall']:.2f} s, {block['cpu']:.2f} CPU s, {block['memory'] / 2**30:.2f} GiB", flush=True)


def _write(asked, result):
    if asked.json:
        Path(asked.json).write_text(json.dumps(result, indent=1) + "\n")


def _weights(case, there):
    """A folder of random weights of the case's shape."""
    weights.write(case, there / "weights")
    return there / "weights"


def setting(text: str) -> tuple[str, object]:
    """(key, value) of "KEY=VALUE", whose value is JSON or else a text."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", required=True, choices=CASES)
    parser.add_argument("--peer", required=True, choices=(*PEERS, "none"), help="tunix: google-tunix, DPO on CPU; none: our side alone")
    parser.add_argument("--checkpoint", metavar="FOLDER", help="weights and tokenizer; without it, random weights of the case's shape")
    parser.add_argument("--pairs", metavar="FILE", help="JSONL of prompt, chosen, rejected; without it, random ids of the case's lengths")
    parser.add_argument("--most", type=int, default=1024, help="tokens of a sequence of --pairs at most (default 1024)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="blocks of each side (default 3)")
    parser.add_argument("--block", type=int, default=4, help="steps of a block (default 4)")
    parser.add_argument("--one-at-a-time", action="store_true", help="all blocks of a side, then the other: where both do not fit the card")
    parser.add_argument("--tolerance", type=float, help="largest difference of losses and log-probs, relative to 1 + their size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of our configuration: model.remat=full")
    parser.add_argument("--case-set", action="append", default=[], metavar="KEY=VALUE", help="a field of the case, such as pairs=4")
    parser.add_argument("--logs", metavar="FOLDER", help="keep what the sides print")
    parser.add_argument("--json", metavar="FILE", help="write everything there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""Where the time of our training step goes: seconds by operation, as the profiler of the device saw them.

    python -m tests.benchmarks.step_profile --case NAME [--checkpoint FOLDER] [--set KEY=VALUE] [--case-set KEY=VALUE] [--json FILE]

The step is that of `compare`, of the same case and settings. The profiler names the operation of the compiled program that each kernel
belongs to; the program's own text says which line of the source it came from. Groups are the parts of that path that tell a reader most:
the head's loop over chunks, attention, linear maps, the optimizer; "again" is what remat computes a second time. "idle" is the time in
which no kernel ran.
"""

import argparse
from collections import defaultdict
import dataclasses
import glob
import json
from pathlib import Path
import re
import tempfile
import time

from tests.benchmarks.compare import ours, weights, workload
from tests.benchmarks.compare.__main__ import setting
from tests.benchmarks.compare.cases import CASES

WARM, STEPS = 2, 2
GROUPS = {  # the first whose pattern is in the path of an operation
    "head": r"lm_head_chunks|logps|token_",
    "attention": r"attend|flash|pallas|attention_(forward|dq|dkv)",
    "layers": r"while|layers|checkpoint",
    "embedding": r"embed",
    "optimizer": r"adam|clip|optim|apply_updates",
}


def main() -> None:
    """Prints the groups and the operations that take most."""
    asked = _arguments()
    case = dataclasses.replace(CASES[asked.case], **dict(setting(one) for one in asked.case_set))
    with tempfile.TemporaryDirectory() as there:
        folder = Path(asked.checkpoint or Path(there) / "weights")
        if not asked.checkpoint:
            weights.write(case, folder)
        found = measured(case, str(folder), dict(setting(one) for one in asked.set), asked.device, Path(there))
    print(f"step {found['step_s'] * 1e3:.1f} ms; busy {found['busy_s'] * 1e3:.1f} ms; {found['memory'] / 2**30:.1f} GiB")
    for name, seconds in sorted(found["groups"].items(), key=lambda item: -item[1]):
        print(f"{seconds * 1e3:9.2f} ms  {name}")
    for row in found["operations"][: asked.top]:
        name, kernel = row["operation"], row["kernel"]
        print(f"{row['seconds'] * 1e3:9.2f} ms  {row['count']:5.0f}x  {name:34.34s}  {kernel:44.44s}  {row['path'][-90:]}")
    if asked.json:
        Path(f"{asked.json}.hlo").write_text(found.pop("program"))
        Path(asked.json).write_text(json.dumps(found, indent=1) + "\n")


def measured(case, folder: str, settings: dict, device: str, there: Path) -> dict:
    """Seconds per step of the whole, of its groups and of its operations."""
    import jax

    from jaxalign.config import build
    from jaxalign.data.rows import loader

    cfg = ours.configuration(case, folder, settings)
    pairs = workload.generated(case, steps=workload.CHECKED + WARM + STEPS)
    with jax.set_mesh(build.mesh(cfg)):
        batches, _ = ours.rows_of(case, pairs, block=WARM + STEPS, rows=cfg.batch.rows, multiple=ours.MULTIPLE[device])
        model, made = ours.objects(cfg)
        state = jax.block_until_ready(made.init_state(build.params(cfg, model)))
        if case.precomputed:
            batches = ours.with_reference(cfg, model, state, batches)
        arrays = [loader.to_device(make()) for make in batches[workload.CHECKED :]]
        step = made.train_step.lower(state, arrays[0]).compile()
        for batch in arrays[:WARM]:
            state, _ = step(state, batch)
        jax.block_until_ready(state)
        start = time.perf_counter()
        with jax.profiler.trace(there / "trace"):
            for batch in arrays[WARM:]:
                state, _ = step(state, batch)
            jax.block_until_ready(state)
            wall = time.perf_counter() - start
    (file,) = glob.glob(f"{there}/trace/**/*.xplane.pb", recursive=True)
    text = step.as_text()
    operations, busy = _operations(jax.profiler.ProfileData.from_file(file), _paths(text))
    groups = defaultdict(float)
    for row in operations:
        groups[group(row["path"] + " " + row["kernel"])] += row["seconds"]
    groups["idle"] = wall / STEPS - busy
    return {"step_s": wall / STEPS, "busy_s": busy, "memory": ours.memory(), "groups": groups, "operations": operations, "program": text}


def group(path: str) -> str:
    """The group of an operation, and whether it belongs to the backward pass or is computed again."""
    name = next((name for name, pattern in GROUPS.items() if re.search(pattern, path)), "rest")
    if "rematted_computation" in path:
        return f"{name}, again"
    return f"{name}, backward" if "transpose(" in path else name


def _paths(program: str) -> dict[str, str]:
    return dict(re.findall(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', program, re.M))


def _operations(data, paths):
    totals, spans = defaultdict(lambda: [0.0, 0]), []
    for plane in data.planes:
        if not plane.name.startswith(("/device:GPU", "/host:CPU")):
            continue
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                on_card = plane.name.startswith("/device:GPU") and line.name.startswith("Stream")
                if not on_card and ("hlo_op" not in stats or plane.name.startswith("/device:GPU")):
                    continue
                one = totals[str(stats.get("hlo_op", "")), event.name]
                one[0] += event.duration_ns / 1e9 / STEPS
                one[1] += 1 / STEPS
                spans.append((event.start_ns, event.start_ns + event.duration_ns))
    rows = [
        {"operation": name, "kernel": kernel, "path": paths.get(name, ""), "seconds": seconds, "count": count}
        for (name, kernel), (seconds, count) in totals.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"]), _covered(spans) / 1e9 / STEPS


def _covered(spans: list[tuple[float, float]]) -> float:
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", required=True, choices=CASES)
    parser.add_argument("--checkpoint", metavar="FOLDER", help="weights and tokenizer; without it, random weights of the case's shape")
    parser.add_argument("--device", choices=tuple(ours.MULTIPLE), default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of our configuration: model.remat=full")
    parser.add_argument("--case-set", action="append", default=[], metavar="KEY=VALUE", help="a field of the case, such as pairs=4")
    parser.add_argument("--top", type=int, default=40, help="operations to print (40)")
    parser.add_argument("--json", metavar="FILE", help="write everything there, and the program beside it")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Everything that is checked and timed on a GPU, in steps that are limited in time and outlive each other's faults.

    python -m tests.benchmarks.gpu OUT [--steps NAME ...] [--seconds 430] [--toy]

OUT gets results.json, with what every step said, and log.txt, with what it printed. Steps run in the order of STEPS, as long as there is
time for them; some that are not timed run side by side. --toy takes models that a CPU runs in seconds, to try the script itself. Random
weights are written once, into a file system in memory where there is one, and read by both sides of a comparison.
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from tests.benchmarks.compare.cases import CASES

KERNELS = ("-m", "tests.benchmarks.attention_kernels", "--tune", "dkv:64", "--seconds", "70")
ROOM = 40 * 2**30  # bytes
QUICK = "--xla_gpu_autotune_level=0"  # for programs that need not be fast: searching for the best kernels takes minutes
FLAGS = {"greedy-gpu": QUICK, "checks": QUICK, "train": QUICK, "dpo-1b-exact": "--xla_allow_excess_precision=false"}
TRAIN = ("-m", "jaxalign.train", "--config", "tests/tiny.py:dpo")
SAME_TEXT = (
    "import json, sys; one, other = ([json.loads(line)['text'] for line in open(name)] for name in sys.argv[1:]); "
    "same = sum(a == b for a, b in zip(one, other, strict=True)); "
    "print(f'{same} of {len(one)} greedy texts are equal on GPU and CPU'); sys.exit(same < len(one))"
)
# all weights of 8B on one card: no reference in memory, half of AdamW's first moment
ALONE = ("--case-set", "precomputed=true", "--set", "optimizer.mu_dtype=bfloat16")
TOY = ("--case-set", "shape=toy", "--case-set", "lengths=short")


@dataclasses.dataclass(frozen=True)
class Step:
    """One command with its time limit."""

    command: tuple[str, ...]  # of Python; {there} is the temporary folder, {device} "gpu" or "cpu"
    seconds: int
    beside: bool = False  # runs beside the others: nothing of it, or of what runs meanwhile, is timed
    needs: str | None = None  # a file without which there is nothing to run
    after: tuple[str, ...] = ()  # steps that run beside and must have ended
    cpu: bool = False  # on the CPU of the machine


def _compared(case: str, *more: str, peer: str = "trl", seconds: int, weights: str | None = None) -> Step:
    folder = f"{{there}}/{weights or case}"
    command = ("-m", "tests.benchmarks.compare", "--case", case, "--peer", peer, "--device", "{device}", "--checkpoint", folder)
    return Step((*command, "--one-at-a-time", *more), seconds, needs=f"{folder}/config.json")


def _weights(case: str) -> Step:
    shape = json.dumps(dataclasses.asdict(CASES[case]))
    return Step(("-m", "tests.benchmarks.compare.weights", shape, f"{{there}}/{case}"), 60)


def _greedy(where: str) -> Step:
    asked = ("--prompts", "package:sf_dialogue/test.jsonl.gz", "--limit", "16", "--max-new-tokens", "64", "--greedy", "--dtype", "float32")
    command = ("-m", "jaxalign.generate", "--checkpoint", "package:stories260k", *asked, "--out", f"{{there}}/{where}.jsonl")
    return Step(command, 120, beside=True, cpu=where == "cpu")


STEPS = {
    "checks": Step(("-m", "tests.benchmarks.gpu_checks"), 120),
    "greedy-cpu": _greedy("cpu"),
    "greedy-gpu": _greedy("gpu"),
    "train": Step((*TRAIN, "--workdir", "{there}/run", "--config.data.prepared_dir={there}/prepared"), 120, beside=True),
    "same-text": Step(("-c", SAME_TEXT, "{there}/gpu.jsonl", "{there}/cpu.jsonl"), 20, after=("greedy-cpu", "greedy-gpu")),
    "weights-1b": _weights("dpo-1b"),
    "dpo-1b": _compared("dpo-1b", "--rounds", "3", "--block", "4", seconds=170),
    "weights-8b": _weights("lora-8b"),
    "lora-8b": _compared("lora-8b", "--rounds", "2", "--block", "3", seconds=200),
    "lora-8b-attention": _compared("lora-8b", "--rounds", "1", "--block", "3", "--set", "model.remat=attention", peer="none", seconds=80),
    # needs more than 80 GB
    "dpo-8b": _compared("dpo-8b", *ALONE, "--rounds", "2", "--block", "3", peer="none", seconds=200, weights="lora-8b"),
    "dpo-8b-adafactor": _compared(
        "dpo-8b", "--set", "optimizer.name=adafactor", "--rounds", "1", "--block", "3", peer="none", seconds=100, weights="lora-8b"
    ),
    "kernels": Step((*KERNELS, "--json", "{there}/kernels.json"), 80),
    "dpo-1b-none": _compared("dpo-1b", "--rounds", "1", "--block", "4", "--set", "model.remat=none", peer="none", seconds=70),
    "dpo-1b-exact": _compared("dpo-1b", "--rounds", "1", "--block", "4", peer="none", seconds=70),  # rounds as often as the program says
    "dpo-1b-full": _compared("dpo-1b", "--rounds", "1", "--block", "4", "--set", "model.remat=full", peer="none", seconds=70),
    "dpo-1b-xla": _compared("dpo-1b", "--rounds", "1", "--block", "4", "--set", "model.attention=xla", peer="none", seconds=80),
}


class Runner:
    """Runs steps, and writes what they gave after each of them."""

    def __init__(self, out: Path, *, device: str, toy: bool, seconds: float):
        self.out, self.device, self.toy = out, device, toy
        self.end = time.monotonic() + seconds
        memory = Path("/dev/shm")  # a file system in memory writes and reads 16 GB of weights in seconds
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > ROOM
        self.there = Path(tempfile.mkdtemp(dir=memory if roomy else None))
        self.results, self.running = {}, {}
        out.mkdir(parents=True, exist_ok=True)
        self.log = open(out / "log.txt", "a", encoding="utf-8", errors="replace")  # noqa: SIM115 (open until the end)

    def run(self, name: str) -> None:
        """Runs a step, or starts it where it runs beside the others."""
        step = STEPS[name]
        for other in step.after or ([] if step.beside else list(self.running)):  # nothing runs beside what is timed
            self.wait(other)
        left = self.end - time.monotonic()
        if step.needs and not Path(self._filled(step.needs)).exists():
            self._note(name, {"skipped": f"{step.needs} is not there"})
        elif left < 5:
            self._note(name, {"skipped": "no time is left"})
        else:
            self.running[name] = (self._start(name, step), time.monotonic(), min(step.seconds, left))
            if not step.beside:
                self.wait(name)

    def wait(self, name: str) -> None:
        """Ends a step that is running, and notes what it gave."""
        if name not in self.running:
            return
        process, began, limit = self.running.pop(name)
        try:
            code = process.wait(max(1.0, began + limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = f"stopped after {limit:.0f} s"
        _kill(process)
        text = (self.there / f"{name}.txt").read_text(errors="replace")
        self.log.write(f"\n===== {name}: {code}, {time.monotonic() - began:.1f} s\n{text[-200_000:]}\n")
        for file in sorted((self.there / f"logs-{name}").glob("*.log")):
            self.log.write(f"----- {name}, {file.stem}\n{file.read_text(errors='replace')[-20_000:]}\n")
        self.log.flush()
        written = self.there / f"{name}.json"
        found = {"json": json.loads(written.read_text())} if written.is_file() else {"said": text.strip()[-4000:]}
        self._note(name, {"code": code, "seconds": round(time.monotonic() - began, 1), **found})
        print("\n".join(text.strip().splitlines()[-14:]), flush=True)

    def close(self) -> None:
        """Ends whatever runs."""
        for name in list(self.running):
            self.wait(name)
        shutil.rmtree(self.there, ignore_errors=True)

    def _start(self, name, step):
        command = [self._filled(part) for part in step.command]
        if "tests.benchmarks.compare" in command:
            logs = self.there / f"logs-{name}"
            logs.mkdir()
            command += ["--json", str(self.there / f"{name}.json"), "--logs", str(logs), *(TOY if self.toy else ())]
        on_cpu = step.cpu or self.device == "cpu"
        env = os.environ | {"PYTHONUNBUFFERED": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "HF_HUB_OFFLINE": "1"}
        env |= {"JAX_COMPILATION_CACHE_DIR": str(self.there / "programs"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1"}
        env |= {"JAX_PLATFORMS": "cpu"} if on_cpu else {}
        env |= {"XLA_FLAGS": f"{env.get('XLA_FLAGS', '')} {FLAGS[name]}"} if name in FLAGS else {}
        env |= {"JAX_DEFAULT_MATMUL_PRECISION": "highest"} if name.startswith("greedy") else {}  # else the card rounds float32
        print(f"===== {name}", flush=True)
        output = open(self.there / f"{name}.txt", "w")  # noqa: SIM115 (the process writes to it)
        return subprocess.Popen([sys.executable, *command], stdout=output, stderr=output, env=env, start_new_session=True)

    def _filled(self, part):
        if self.toy and part.startswith('{"shape"'):
            part = json.dumps({**json.loads(part), "shape": "toy"})
        marks = {"{there}": str(self.there), "{device}": self.device}
        for mark, value in marks.items():
            part = part.replace(mark, value)
        return part

    def _note(self, name, found):
        self.results[name] = found
        shown = {key: value for key, value in found.items() if key in ("code", "seconds", "skipped")}
        print(f"----- {name}: {shown}, {self.end - time.monotonic():.0f} s left", flush=True)
        (self.out / "results.json").write_text(json.dumps(self.results, indent=1) + "\n")


def _kill(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def main() -> int:
    """Runs the steps; the exit code is the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--seconds", type=float, default=430, help="for everything together (430)")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--toy", action="store_true", help="models that a CPU runs in seconds")
    asked = parser.parse_args()
    runner = Runner(asked.out, device=asked.device, toy=asked.toy, seconds=asked.seconds)
    try:
        for name in STEPS:
            if name in asked.steps:
                runner.run(name)
    finally:
        runner.close()
    return sum(found.get("code", 0) != 0 for found in runner.results.values())


if __name__ == "__main__":
    sys.exit(main())

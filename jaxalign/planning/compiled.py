"""Compiles a step for devices that need not be there, and keeps what came of it by program: its text and the compiler's memory figures."""

from collections.abc import Mapping
import dataclasses
import gzip
import hashlib
from importlib import metadata
import json
import os
from pathlib import Path
import re
import sys
import threading
import time

from jaxalign import paths

USED = re.compile(  # in the error for a program that does not fit: what it needs, in either of two forms
    r"(?:[Uu]sed |required for HLO \w+ \()([\d.]+)([KMGT]?)i?B?(?: of [\d.]+[KMGT]?i?B? (?:hbm|vmem)|\) exceeds available HBM)"
)
FLAGS = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")  # by which the user sets options of the compiler
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program, of one device."""

    arguments: float  # bytes of the state and the batch
    total: float  # bytes at the peak, with the arguments
    text: str  # of the optimized program; "" where it does not fit
    seconds: float  # of the compile
    problem: str = ""  # the compiler's own words where the program does not fit


def compile_step(lowered, *, target: str, options: Mapping[str, bool], cache: str | Path | None = None) -> Compiled:
    """The compiled step, from the folder `cache` where it was compiled before. Shows on standard error how long it takes.

    Args:
      lowered: the step, lowered for the devices.
      target: name of the devices.
      options: of the compiler, which `lowered` carries; its text does not contain them.
      cache: None: $JAXALIGN_CACHE/plans or ~/.cache/jaxalign/plans.
    """
    folder = paths.resolve(str(cache)) if cache else paths.cache() / "plans"
    settings = [*sorted(options), *(os.environ.get(name, "") for name in FLAGS)]
    key = hashlib.sha256("\n".join([target, *_versions(), *settings, lowered.as_text()]).encode()).hexdigest()[:24]
    facts, program = folder / f"{key}.json", folder / f"{key}.hlo.gz"
    if facts.exists() and program.exists():
        return Compiled(**json.loads(facts.read_text()), text=gzip.decompress(program.read_bytes()).decode())
    made = _compile(lowered, target)
    folder.mkdir(parents=True, exist_ok=True)
    program.write_bytes(gzip.compress(made.text.encode()))
    facts.write_text(json.dumps({name: value for name, value in vars(made).items() if name != "text"}) + "\n")
    return made


def _compile(lowered, target):
    start, done = time.monotonic(), threading.Event()
    watch = threading.Thread(target=_tell, args=(target, start, done), daemon=True)
    watch.start()
    try:
        compiled = lowered.compile()
    except Exception as error:  # jax raises several kinds
        used = USED.search(str(error))
        if used is None:
            raise
        problem = next(line for line in str(error).splitlines() if USED.search(line)).strip()
        return Compiled(0.0, float(used.group(1)) * UNITS[used.group(2)], "", time.monotonic() - start, problem)
    finally:
        done.set()
        watch.join()
    memory = compiled.memory_analysis()
    arguments = float(memory.argument_size_in_bytes)
    added = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = float(getattr(memory, "peak_memory_in_bytes", 0))
    on_host = memory.host_argument_size_in_bytes  # the compiler's peak counts what rests on the host, its arguments do not
    return Compiled(arguments, peak - on_host if peak else arguments + added, compiled.as_text(), time.monotonic() - start)


def _tell(target, start, done):
    """Shows every few seconds that the compiler is still at work."""
    shown = sys.stderr.isatty()
    while not done.wait(1.0 if shown else 60.0):
        line = f"compiling for {target}: {time.monotonic() - start:.0f} s; a step of a large model takes minutes"
        print(f"\r\x1b[K{line}" if shown else line, end="" if shown else "\n", file=sys.stderr, flush=True)
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _versions():
    names = ("jax", "jaxlib", "libtpu")
    return [f"{name} {metadata.version(name)}" for name in names if any(metadata.distributions(name=name))]

"""Seconds and TFLOP/s of the attention kernels for GPUs, beside plain XLA and cuDNN, after their values and gradients were compared.

    python -m tests.benchmarks.attention_kernels [--tune KERNEL:SIZE ...] [--json FILE] [--seconds 85]

--tune first times other tiles beside those of `gpu_tiles`: of the kernels "forward", "dq" and "dkv" for heads of 64 and 128 elements.

Heads 32/8 as in Llama 3 in bfloat16, 16,384 tokens, once as packed pairs that share their prompts and once as plain causal rows.
TFLOP/s count what the rule needs: 4 E operations per head and visible pair of tokens forward, 3.5 times that with the backward pass. cuDNN
(`jax.nn.dot_product_attention`, causal rows only) shows what a kernel can reach on the card. What does not compile (too much shared memory,
say) is reported and left out, and nothing new begins after so many seconds. On a CPU the kernels are interpreted at toy size.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from functools import partial
import json
import time
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import sharding
from jaxalign.models.attention import blocks, gpu_tiles, pallas_gpu, rule, xla
from jaxalign.models.attention.gpu_tiles import Tile, Tiles

BEGAN = time.monotonic()
TOY = jax.default_backend() == "cpu"
TOY_TILES = Tiles(Tile(16, 16, 4, 2), Tile(16, 16, 4, 2), Tile(16, 16, 4, 2))
PASSES = {"forward": 1.0, "both": 3.5}  # operations relative to the forward pass


class Shape(NamedTuple):
    rows: int
    length: int
    heads: int
    kv_heads: int
    size: int
    dtype: str = "bfloat16"


def packed(random: np.random.Generator, shape: Shape, *, pairs: bool) -> tuple[list[np.ndarray], int]:
    """(positions, segments and prefixes int32[R, T], visible pairs of tokens) of shared prompts with two answers, or plain rows."""
    marks, visible = np.zeros((3, shape.rows, shape.length), np.int32), 0
    for row in range(shape.rows):
        used, segment = 0, 0
        while used < shape.length:
            longest = np.array([320, 480, 480]) if pairs else np.array([shape.length, 0, 0])
            lengths = random.integers(longest // 3, longest + 1) if pairs else longest
            lengths = np.diff(np.minimum(used + np.concatenate([[0], np.cumsum(lengths)]), shape.length))
            prompt = segment + 1
            for number, length in enumerate(lengths):
                segment, first = segment + 1, (lengths[0] - 1) * (number > 0)
                for mark, values in zip(marks, (first + np.arange(length), segment, prompt * (number > 0)), strict=True):
                    mark[row, used : used + length] = values
                used += length
                visible += length * (length + 1) // 2 + length * lengths[0] * (number > 0)
    return list(marks), int(visible)


def implementation(tiles: Tiles | None = None):
    """A name in the table for the kernels with these tiles; None: the product's own."""
    tiles = TOY_TILES if TOY else tiles
    if tiles is None:
        return "pallas_gpu"
    attend = partial(pallas_gpu.attend_locally, tiles=tiles, interpret=TOY)
    name = str(tiles)
    rule.IMPLEMENTATIONS[name] = rule.Implementation(lambda: SimpleNamespace(attend_locally=attend, refusal=xla.refusal))
    return name


def ours(name: str, softcap: float = 0.0):
    return partial(rule.attend, softcap=softcap, implementation=name)


def cudnn(q, k, v, *_):
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, scale=1.0, implementation="cudnn")


def program(attention, wanted: str):
    """A function of (q, k, v, direction, *marks): the attention ("forward"), all ("both"), or one gradient beside the forward pass."""

    def run(q, k, v, direction, *marks):
        if wanted == "forward":
            return attention(q, k, v, *marks)
        out, pull = jax.vjp(lambda q, k, v: attention(q, k, v, *marks), q, k, v)
        dq, dk, dv = pull(direction)
        return {"both": (out, dq, dk, dv), "dq": dq, "dkv": (dk, dv)}[wanted]

    return jax.jit(run)


def heads(shape: Shape) -> list[jax.Array]:
    """Queries, scaled, keys, values and the gradient of the attention."""
    keys = jax.random.split(jax.random.key(0), 4)
    sizes = shape.heads, shape.kv_heads, shape.kv_heads, shape.heads
    arrays = [jax.random.normal(key, (shape.rows, shape.length, n, shape.size), shape.dtype) for key, n in zip(keys, sizes, strict=True)]
    return [arrays[0] * jnp.asarray(shape.size**-0.5, shape.dtype), *arrays[1:]]


def compiled(jobs: dict, say) -> dict:
    """The programs of {name: (program, arguments)} that compile, several at a time; of the others, why not."""
    done, waiting = {}, {}
    with ThreadPoolExecutor(12) as pool:
        for name, (run, arguments) in jobs.items():
            try:
                waiting[name] = pool.submit(run.lower(*arguments).compile)
            except Exception as error:  # a configuration that cannot be lowered is a result, too
                say(f"{name}: {first_line(error)}")
        for name, future in waiting.items():
            try:
                done[name] = future.result()
            except Exception as error:
                say(f"{name}: {first_line(error)}")
    return done


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def seconds(run, arguments, *, least: float = 0.04) -> float:
    """Of one call: the least mean of three loops that take about `least` seconds each."""
    jax.block_until_ready(run(*arguments))
    start = time.perf_counter()
    jax.block_until_ready(run(*arguments))
    count = 1 if TOY else max(1, min(50, int(least / (time.perf_counter() - start))))
    means = []
    for _ in range(1 if TOY else 3):
        start = time.perf_counter()
        for _ in range(count):
            out = run(*arguments)
        jax.block_until_ready(out)
        means.append((time.perf_counter() - start) / count)
    return min(means)


def compare(say) -> list[dict]:
    """Largest errors of the kernels against the oracle, relative to the largest value of each array."""
    toy = (2, 72, 4, 2, 16) if TOY else None
    cases = [  # shape, window, softcap; what is tolerated is a few roundings of the dtype of the products (TF32 for float32)
        (Shape(*(toy or (2, 1000, 8, 2, 128))), 0, 0.0, 3e-2),
        (Shape(*(toy or (2, 1000, 8, 2, 64))), 300, 30.0, 3e-2),
        (Shape(*(toy or (2, 1000, 4, 2, 80)), "float32"), 0, 0.0, 1e-2),
        (Shape(*(toy or (2, 600, 4, 1, 256))), 0, 0.0, 3e-2),
    ]
    cases, jobs, found = cases[: 1 if TOY else None], {}, []
    for i, (shape, window, softcap, _) in enumerate(cases):
        marks, _ = packed(np.random.default_rng(i), shape, pairs=True)
        for mark in marks:
            mark[-1, shape.length * 3 // 4 :] = 0  # padding
        arguments = placed(heads(shape), marks, window)
        for name in (implementation(), "xla"):
            jobs[i, name] = program(ours(name, softcap), "both"), arguments
    programs = compiled(jobs, say)
    for i, (shape, window, softcap, tolerance) in enumerate(cases):
        pair = [programs.get((i, name)) for name in (implementation(), "xla")]
        if None in pair:
            found.append({"shape": shape, "failed": True})
            continue
        arrays, right = ([np.asarray(x, np.float32) for x in run(*jobs[i, "xla"][1])] for run in pair)
        errors = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(arrays, right, strict=True)]
        good = all(error < tolerance for error in errors)
        found.append({"shape": shape, "window": window, "softcap": softcap, "errors": errors, "equal": good})
        say(f"{'equal' if good else 'NOT EQUAL'}: {shape} window {window} cap {softcap}: " + " ".join(f"{e:.1e}" for e in errors))
    return found


def placed(arrays, marks, window: int):
    """The arguments of a program on the mesh in scope."""
    by_head = [sharding.shard(x, "rows", None, "heads", None) for x in arrays]
    return *by_head, *(sharding.shard(jnp.asarray(x), "rows", None) for x in marks), jnp.int32(window)


SIZES = [(4096, 64), (4096, 128), (8192, 128), (2048, 128), (8192, 64), (2048, 64)]  # tokens of a row, elements of a head


def measure(mesh, sizes, limit: float, say) -> list[dict]:
    """Seconds of every form, pass, shape and layout."""
    results = []
    say("| T | E | layout | form | forward ms | TFLOP/s | forward + backward ms | TFLOP/s |\n|---|---|---|---|---|---|---|---|")
    for length, size in sizes:
        if time.monotonic() - BEGAN > limit:
            say(f"no time left for T = {length}, E = {size}")
            continue
        shape = Shape(2, 64, 4, 2, 16) if TOY else Shape(16_384 // length, length, 32, 8, size)
        layouts = {name: packed(np.random.default_rng(0), shape, pairs=name == "pairs") for name in ("pairs", "causal")}
        plain, forms = heads(shape), {"pallas_gpu": ours(implementation()), "xla": ours("xla")}
        with jax.set_mesh(mesh):
            arguments = {name: placed(plain, marks, 0) for name, (marks, _) in layouts.items()}
            jobs = {(form, wanted): (program(f, wanted), arguments["pairs"]) for form, f in forms.items() for wanted in PASSES}
            programs = compiled(jobs, say)
        if not TOY:
            programs |= compiled({("cudnn", wanted): (program(cudnn, wanted), plain) for wanted in PASSES}, say)
        for layout, (_, visible) in layouts.items():
            for form in (*forms, *(["cudnn"] if layout == "causal" and not TOY else [])):
                result = {"shape": shape, "layout": layout, "form": form}
                for wanted, factor in PASSES.items():
                    if (form, wanted) in programs:
                        given = plain if form == "cudnn" else arguments[layout]
                        taken = seconds(programs[form, wanted], given)
                        work = factor * 4 * shape.size * shape.heads * visible
                        result[wanted] = {"seconds": taken, "tflops": work / taken / 1e12}
                results.append(result)
                cells = [f"{result[w]['seconds'] * 1e3:.3f} | {result[w]['tflops']:.1f}" if w in result else "- | -" for w in PASSES]
                say(f"| {length} | {size} | {layout} | {form} | {' | '.join(cells)} |")
        say(f"blocks met of {length} x {size}: {met(layouts['pairs'][0], shape):.2f} of the causal ones")
    return results


def met(marks, shape: Shape) -> float:
    """The share of the causal blocks of 128 x 64 that packed rows meet."""
    count = blocks.seen(*map(jnp.asarray, marks), jnp.int32(0), 128, 64)[0].sum()
    ones, zeros = jnp.ones_like(marks[0]), jnp.zeros_like(marks[0])
    return float(count / blocks.seen(zeros, ones, zeros, jnp.int32(0), 128, 64)[0].sum())


CANDIDATES = {  # by what is timed: tiles of its kernel
    "forward": "128 64 4 3, 128 128 8 2, 128 128 8 3, 128 64 8 3, 128 64 4 2, 64 64 4 3, 64 128 4 2, 128 128 4 2, 128 32 4 3",
    "dq": "128 64 8 2, 128 64 8 3, 64 64 4 2, 64 64 4 3, 128 128 8 2, 64 128 8 2, 128 64 4 2, 128 32 4 3, 64 32 4 3",
    "dkv": "64 128 8 2, 64 128 8 3, 64 64 4 2, 64 64 4 3, 128 128 8 2, 128 64 8 2, 32 128 4 3, 64 128 4 2, 32 64 4 3",
}


def tune(mesh, asked: list[str], limit: float, say) -> list[dict]:
    """Milliseconds by kernel and tile; those of a gradient contain the forward pass with the product's tile."""
    results = []
    for wanted, size in (one.split(":") for one in asked):
        if time.monotonic() - BEGAN > limit:
            say(f"no time left for {wanted} of E = {size}")
            continue
        shape = Shape(2, 64, 4, 2, 16) if TOY else Shape(4, 4096, 32, 8, int(size))
        own = TOY_TILES if TOY else gpu_tiles.tiles_for(2, shape.size, None)
        plain, layouts = heads(shape), [packed(np.random.default_rng(0), shape, pairs=pairs)[0] for pairs in (True, False)]
        kernel = {"forward": "attention", "dq": "queries", "dkv": "keys"}[wanted]
        others = (Tile(*map(int, one.split())) for one in CANDIDATES[wanted].split(","))
        tiles = dict.fromkeys([getattr(own, kernel), *others][: 2 if TOY else None])
        with jax.set_mesh(mesh):
            arguments = [placed(plain, marks, 0) for marks in layouts]
            jobs = {tile: (program(ours(implementation(own._replace(**{kernel: tile}))), wanted), arguments[0]) for tile in tiles}
            programs = compiled(jobs, say)
        timed = {tile: [seconds(run, given, least=0.02) * 1e3 for given in arguments] for tile, run in programs.items()}
        for tile, times in sorted(timed.items(), key=lambda item: sum(item[1])):
            mark = "  <- the product's" if tile == getattr(own, kernel) else ""
            say(f"E {size} {wanted}: {tuple(tile)}  pairs {times[0]:.3f} ms  causal {times[1]:.3f} ms{mark}")
            results.append({"shape": shape, "kernel": wanted, "tile": tile, "ms": times})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the numbers to this file")
    parser.add_argument("--tune", nargs="+", default=[], metavar="KERNEL:SIZE", help="time other tiles, e.g. of dkv:64")
    parser.add_argument("--seconds", type=float, default=85, help="begin nothing new after so many seconds")
    asked = parser.parse_args()
    say = partial(print, flush=True)
    device = jax.devices()[0]
    facts = {"device": device.device_kind, "jax": jax.__version__, "tune": asked.tune}
    say(f"{facts['device']}, jax {facts['jax']}" + (": interpreted at toy size, times mean nothing" if TOY else ""))
    mesh = sharding.make_mesh(devices=[device])
    limit = float("inf") if TOY else asked.seconds - 12  # what is begun takes so long at most
    facts["tiles"] = tune(mesh, asked.tune, limit, say)
    with jax.set_mesh(mesh):
        facts["compared"] = compare(say)
    say(f"compared after {time.monotonic() - BEGAN:.0f} s")
    facts["measured"] = measure(mesh, [(64, 16)] if TOY else SIZES, limit, say)
    facts["seconds"] = time.monotonic() - BEGAN
    say(f"done in {facts['seconds']:.0f} s")
    if asked.json:
        with open(asked.json, "w", encoding="utf-8") as file:
            json.dump(facts, file, indent=1)


if __name__ == "__main__":
    main()

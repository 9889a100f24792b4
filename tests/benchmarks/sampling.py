"""Tokens per second and peak memory of sampling, beside transformers.generate on the same weights and prompts (torch, CPU, float32).

    python tests/benchmarks/sampling.py [stories260K] [135M] [--prompts 64] [--times 3] [--sides jaxalign transformers]

64 prompts of 16 to 192 tokens, 4 samples of 64 tokens each, none of which ends early. Each side runs in a process of its own: once to
compile and to warm up, then three times, of which the least counts. `busy` is the share of lane-steps that drew a token. The last lines
compare 8 samples of a prompt with one, and samples whose lengths differ.
"""

import argparse
import json
from pathlib import Path
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

PROMPTS, SAMPLES, TOKENS, SHORTEST, LONGEST = 64, 4, 64, 16, 192
SHAPES = {
    "135M": dict(
        vocab_size=49152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
}
SIDES = {  # (which, times the prompts, samples, lanes, stop ids)
    "jaxalign": ("jaxalign", 1, SAMPLES, SAMPLES, ()),  # all samples side by side, as transformers draws them
    "transformers": ("transformers", 1, SAMPLES, 1, ()),
    "jaxalign, 1 sample": ("jaxalign", 1, 1, 1, ()),
    "jaxalign, 8 samples": ("jaxalign", 1, 8, 8, ()),
    "jaxalign, 4 times the prompts, 1 lane, lengths differ": ("jaxalign", 4, SAMPLES, 1, tuple(range(3, 500, 25))),
}


def folder(name: str, there: Path) -> Path:
    """A folder of weights that both sides read."""
    if name == "stories260K":
        from jaxalign import paths

        return paths.resolve("package:stories260k")
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPES[name])).save_pretrained(there / name)
    return there / name


def prompts(count: int, vocabulary: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(3, vocabulary, random.integers(SHORTEST, LONGEST + 1)).tolist() for _ in range(count)]


def ours(path: Path, count: int, samples: int, lanes: int, stop_ids: tuple[int, ...] = ()):
    """(a function that draws all samples and returns the number of tokens, the sampler)."""
    import jax
    import jax.numpy as jnp

    from jaxalign import sharding
    from jaxalign.models import model as models
    from jaxalign.sampling.law import Law
    from jaxalign.sampling.sampler import Sampler
    from jaxalign.sampling.stopping import Stopping
    from jaxalign.training.sources import Source

    jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1]))
    source = Source(str(path))
    model = models.build(source.config())
    params = source.load(model)
    stopping = Stopping(TOKENS, ids=stop_ids)
    sampler = Sampler(model, law=Law(), stopping=stopping, seed=0, places=min(64, count), lanes=lanes, dtype=jnp.float32, attention="xla")
    asked = prompts(count, model.config.vocab_size)
    return lambda: sum(len(sample.token_ids) for sample in sampler.draw(params, asked, samples=samples)), sampler


def theirs(path: Path, count: int, samples: int):
    """A function that draws all samples and returns the number of tokens."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    asked = prompts(count, model.config.vocab_size)
    longest = max(map(len, asked))
    ids = torch.tensor([[0] * (longest - len(one)) + one for one in asked])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in asked])
    law = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=samples, pad_token_id=0)

    def draw():
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, max_new_tokens=TOKENS, min_new_tokens=TOKENS, **law)
        return out[:, longest:].numel()

    return draw


def measure(side: str, path: Path, count: int, samples: int, lanes: int, stop_ids: tuple[int, ...], times: int) -> dict:
    draw, sampler = ours(path, count, samples, lanes, stop_ids) if side == "jaxalign" else (theirs(path, count, samples), None)
    costs = []
    for _ in range(1 + times):
        if sampler:
            sampler.usage.tokens = sampler.usage.lane_steps = 0
        start, start_cpu = time.perf_counter(), time.process_time()
        tokens = draw()
        costs.append((time.perf_counter() - start, time.process_time() - start_cpu))
    first = costs[0][0]
    seconds, cpu = (min(numbers) for numbers in zip(*costs[1:] or costs, strict=True))
    mib, busy = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, sampler.usage.busy if sampler else None
    return {"rate": tokens / seconds, "cpu": 1000 * cpu / tokens, "first": first, "mib": mib, "busy": busy}


def apart(*arguments) -> dict:
    """The measurement in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--one", json.dumps(arguments)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(names: list[str], chosen: list[str], prompts: int, times: int) -> None:
    with tempfile.TemporaryDirectory() as there:
        for name in names:
            path = str(folder(name, Path(there)))
            print(f"\n{name}\n| | tokens/s | CPU ms per token | first call, s | peak memory, MiB | busy |\n|---|---|---|---|---|---|")
            sides = {}
            for side in chosen:
                kind, sets, *arguments = SIDES[side]
                sides[side] = one = apart(kind, path, prompts * sets, *arguments, times)
                busy = "" if one["busy"] is None else f"{one['busy']:.0%}"
                print(f"| {side} | {one['rate']:,.0f} | {one['cpu']:.3f} | {one['first']:.1f} | {one['mib']:,.0f} | {busy} |", flush=True)
            if {"jaxalign", "transformers"} <= sides.keys():
                print(f"ratio: {sides['jaxalign']['rate'] / sides['transformers']['rate']:.2f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        side, path, count, samples, lanes, stop_ids, times = json.loads(sys.argv[2])
        print(json.dumps(measure(side, Path(path), count, samples, lanes, tuple(stop_ids), times)))
    else:
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("names", nargs="*", default=["stories260K", *SHAPES], metavar="MODEL")
        parser.add_argument("--prompts", type=int, default=PROMPTS)
        parser.add_argument("--times", type=int, default=3)
        parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
        options = parser.parse_args()
        main(options.names, options.sides, options.prompts, options.times)

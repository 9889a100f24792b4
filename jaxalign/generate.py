"""Samples of a model for the prompts of a file, or for one prompt.

    python -m jaxalign.generate --workdir runs/NAME --prompts FILE --out samples.jsonl [--samples 4]
    python -m jaxalign.generate --checkpoint FOLDER --prompt "Once upon a time"

Without --out the texts are printed. A file that was not finished is continued by the same command, and ends as if it had not been stopped.
"""

from collections.abc import Sequence
from pathlib import Path
import sys
import time

from jaxalign.config.command_line import local, parse, run

FLAGS = (
    ("--workdir", {"type": local, "help": "folder of a run, or of one of its stages"}),
    ("--step", {"help": "with --workdir: checkpoint to take: its step, or best (default: the newest good one)"}),
    ("--checkpoint", {"help": "folder of weights, package:NAME, or a name on the hub"}),
    ("--prompts", {"metavar": "FILE", "type": local, "help": "rows with prompts, in any format of data; answers are left out"}),
    ("--prompt", {"metavar": "TEXT", "help": "one prompt"}),
    ("--limit", {"type": int, "help": "only the first so many rows of --prompts"}),
    ("--template", {"default": None, "help": "auto, plain, a built-in name or a .jinja file (default: the model's own, else plain)"}),
    ("--out", {"metavar": "FILE.jsonl", "type": local, "help": "gets a line for every sample"}),
    ("--samples", {"type": int, "default": 1, "help": "of every prompt (1)"}),
    ("--max-new-tokens", {"type": int, "default": 256, "help": "a sample ends after so many tokens (256)"}),
    ("--min-new-tokens", {"type": int, "default": 0, "help": "no stop token comes before (0)"}),
    ("--greedy", {"action": "store_true", "help": "always the likeliest token; the same as --temperature 0"}),
    ("--temperature", {"type": float, "default": 1.0, "help": "logits are divided by it (1)"}),
    ("--top-k", {"type": int, "default": 0, "help": "only the k likeliest tokens; 0: all (0)"}),
    ("--top-p", {"type": float, "default": 1.0, "help": "only the likeliest tokens that together have this probability (1)"}),
    ("--min-p", {"type": float, "default": 0.0, "help": "only tokens with this share of the likeliest one's probability (0)"}),
    ("--stop", {"action": "append", "default": [], "metavar": "TEXT", "help": "a text that ends a sample; may be given several times"}),
    ("--seed", {"type": int, "default": 0, "help": "of the random draws (0)"}),
    ("--places", {"type": int, "default": 64, "help": "prompts that are answered at a time (64)"}),
    ("--lanes", {"type": int, "default": None, "help": "samples of a prompt that are drawn at a time (default: a quarter of --samples)"}),
    ("--dtype", {"choices": ("auto", "float32", "bfloat16"), "default": "auto", "help": "auto: float32 on CPU, bfloat16 elsewhere"}),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws samples, and prints them or writes them; returns the exit code."""
    return run(_generate, argv)


def _generate(argv):
    options = parse(argv, __doc__.splitlines()[0], FLAGS, command="generate")
    _check(options)
    import logging

    import jax

    from jaxalign import sharding

    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns that it only reads
    with jax.set_mesh(sharding.make_mesh(fsdp=-1)):
        _draw(options)


def _check(options):
    from jaxalign.config.schema import LARGEST_SEED

    if bool(options.workdir) == bool(options.checkpoint):
        raise ValueError("give --workdir RUN or --checkpoint FOLDER: one of them speaks.")
    if bool(options.prompts) == (options.prompt is not None):
        raise ValueError("give --prompts FILE or --prompt TEXT: one of them asks.")
    for name, without in (("step", "workdir"), ("limit", "prompts")):
        if getattr(options, name) is not None and not getattr(options, without):
            raise ValueError(f"--{name} has no effect without --{without}; leave it out.")
    if options.greedy and options.temperature not in (0.0, 1.0):
        raise ValueError(f"--greedy takes the likeliest token, and --temperature {options.temperature} draws; give one of them.")
    for name in ("samples", "places", "lanes", "limit"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name} {getattr(options, name)} must be at least 1.")
    if not 0 <= options.seed <= LARGEST_SEED:
        raise ValueError(f"--seed {options.seed} must be in 0 to {LARGEST_SEED}.")


def _draw(options):
    from jaxalign.config import build
    from jaxalign.data import progress
    from jaxalign.manifest import content_hash
    from jaxalign.models import model as models
    from jaxalign.sampling import lines, speaker
    from jaxalign.sampling.law import Law
    from jaxalign.sampling.sampler import Sampler
    from jaxalign.sampling.stopping import Stopping
    from jaxalign.training.sources import Source

    name = options.checkpoint or (f"{options.workdir}@{options.step}" if options.step else options.workdir)
    source = Source(name)
    voice = speaker.of_source(source, template=options.template)
    asked = speaker.asked_text(options.prompt) if options.prompt is not None else speaker.asked_file(options.prompts, limit=options.limit)
    prompts = [voice.ids(one) for one in asked]
    law = Law(0.0 if options.greedy else options.temperature, options.top_k, options.top_p, options.min_p)
    stopping = Stopping(options.max_new_tokens, options.min_new_tokens, voice.stop_ids, tuple(options.stop))
    dtype = build.dtype_of(options.dtype)
    model = models.build(source.config())
    sampler = Sampler(
        model,
        law=law,
        stopping=stopping,
        seed=options.seed,
        places=min(options.places, len(prompts) * options.samples),
        lanes=max(1, options.samples // 4) if options.lanes is None else options.lanes,
        dtype=dtype,
        attention="xla",
        text_of=voice.text,
    )
    sampler.check(prompts)
    out = None
    if options.out:
        settings = {"model": name, "weights": source.identity(), "prompts": content_hash(prompts), "samples": options.samples}
        settings |= {"law": str(law), "stopping": str(stopping), "seed": options.seed, "dtype": str(dtype)}
        out = lines.Lines(Path(options.out), prompts=len(prompts), samples=options.samples, settings=settings)
    params = source.load(model)
    done, start = out.done if out else set(), time.monotonic()
    with progress.bar(len(prompts) * options.samples - len(done), f"generating {options.out}", quiet=out is None) as advance:
        for sample in sampler.draw(params, prompts, samples=options.samples, done=done):
            prompt, asked_id = prompts[sample.prompt], asked[sample.prompt].id
            text = voice.spoken(prompt, sample, stopping)
            if out:
                out.add((sample.prompt, sample.number), lines.line(asked_id, voice.shown(prompt), text, sample))
            else:
                print(f"[{asked_id}.{sample.number}] {text}\n", flush=True)
            advance(1)
    seconds, usage = time.monotonic() - start, sampler.usage
    rate = f"{usage.tokens:,} tokens in {seconds:.1f} s, {usage.tokens / seconds:,.0f} per second with compilation"
    print(f"{rate}; {usage.busy:.0%} of the lanes were busy", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

"""The rules about the flags of `generate`: which go together, and which would have no effect."""

from argparse import Namespace
import math
from pathlib import Path

from jaxalign import outputs
from jaxalign.config.schema import LARGEST_SEED

OF_PROMPTS = ("prompts", "prompt", "out", "limit", "samples", "places", "lanes", "filter", "guide")  # a chat has none of them
NEEDS = {  # flag -> the flag without which it has no effect
    "step": "workdir",
    "limit": "prompts",
    "filter_threshold": "filter",
    "guide_weight": "guide",
    "guide_steps": "guide",
}


def check(options: Namespace) -> None:
    """Raises ValueError where flags contradict each other, one would have no effect, or a number is out of its range."""
    _who(options)
    for name, without in NEEDS.items():
        if getattr(options, name) is not None and not getattr(options, without):
            raise ValueError(f"{_flag(name)} has no effect without --{without}; leave it out.")
    if options.filter and options.guide:
        raise ValueError("--filter drops whole answers and --guide chooses each line of one; give one of them.")
    if options.guide and (options.stop or options.places is not None or options.lanes is not None):
        raise ValueError("--stop, --places and --lanes have no effect with --guide, whose steps are lines; leave them out.")
    _draws(options)
    for name in ("filter_threshold", "guide_weight"):
        if getattr(options, name) is not None and not math.isfinite(getattr(options, name)):
            raise ValueError(f"{_flag(name)} {getattr(options, name)} must be a finite number.")
    for name in ("samples", "places", "lanes", "limit", "guide_steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"{_flag(name)} {getattr(options, name)} must be at least 1.")
    if options.out:
        outputs.check_file(options.out)
    if options.out and options.filter:
        outputs.check_new(kept_file(options.out), made="the file of samples that are left")
    if not 0 <= (options.seed or 0) <= LARGEST_SEED:
        raise ValueError(f"--seed {options.seed} must be in 0 to {LARGEST_SEED}.")


def kept_file(out: str) -> Path:
    """The file that gets the samples which --filter leaves, beside the one of all samples."""
    return Path(f"{out.removesuffix('.jsonl')}.kept.jsonl")


def temperature(options: Namespace) -> float:
    """The temperature that the flags ask for."""
    return 0.0 if options.greedy else 1.0 if options.temperature is None else options.temperature


def _who(options):
    named = bool(options.workdir) + bool(options.checkpoint)
    if not options.chat and named != 1:
        raise ValueError("give --workdir RUN or --checkpoint FOLDER: one of them speaks.")
    if options.chat and (named or len(options.chat) > 2):
        raise ValueError(f"--chat takes one model or two, and {len(options.chat) + named} are named; leave the others out.")
    if options.chat is None and bool(options.prompts) == (options.prompt is not None):
        raise ValueError("give --prompts FILE or --prompt TEXT: one of them asks.")
    if options.chat is not None and (idle := [name for name in OF_PROMPTS if getattr(options, name) is not None]):
        raise ValueError(f"{_flag(idle[0])} has no effect with --chat; leave it out.")


def _draws(options):
    """What goes with the likeliest token: every sample is the same, whatever the seed."""
    if options.greedy and options.temperature not in (None, 0.0):
        raise ValueError(f"--greedy takes the likeliest token, and --temperature {options.temperature} draws; give one of them.")
    if temperature(options):
        return
    for name, plain in (("seed", None), ("samples", 1)):
        if getattr(options, name) not in (None, plain):
            raise ValueError(f"{_flag(name)} {getattr(options, name)} has no effect where the likeliest token is taken; leave it out.")
    if options.guide:
        raise ValueError("--guide chooses among lines that are drawn, and the likeliest token makes them equal; give a --temperature.")


def _flag(name):
    return f"--{name.replace('_', '-')}"

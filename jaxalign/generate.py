"""Samples of a model for the prompts of a file, or for one prompt.

    python -m jaxalign.generate --workdir runs/NAME --prompts FILE --out samples.jsonl [--samples 4]
    python -m jaxalign.generate --checkpoint FOLDER --prompt "Once upon a time"
    python -m jaxalign.generate --chat runs/NAME [FOLDER]

    python -m jaxalign.generate --workdir runs/NAME --prompts FILE --samples 16 --out samples.jsonl --filter runs/REWARD
    python -m jaxalign.generate --workdir runs/NAME --prompts FILE --out samples.jsonl --guide runs/REWARD

--filter drops samples that leave the goal of a run of goal_reward, into FILE.kept.jsonl beside --out, and tells the vote of the others.
--guide chooses each line of an answer by that goal.

Without --out the texts are printed. A file that was not finished is continued by the same command, and ends as if it had not been stopped.
"""

import collections
from collections.abc import Sequence
import math
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
    (
        "--chat",
        {"nargs": "*", "metavar": "RUN_OR_FOLDER", "help": "talk in the terminal, to two models side by side where two are named"},
    ),
    ("--limit", {"type": int, "help": "only the first so many rows of --prompts"}),
    ("--template", {"default": None, "help": "auto, plain, a built-in name or a .jinja file (default: that of its training)"}),
    ("--out", {"metavar": "FILE.jsonl", "type": local, "help": "gets a line for every sample"}),
    ("--samples", {"type": int, "default": None, "help": "of every prompt (1)"}),
    ("--max-new-tokens", {"type": int, "default": 256, "help": "a sample ends after so many tokens (256)"}),
    ("--min-new-tokens", {"type": int, "default": 0, "help": "no stop token comes before (0)"}),
    ("--greedy", {"action": "store_true", "help": "always the likeliest token; the same as --temperature 0"}),
    ("--temperature", {"type": float, "default": 1.0, "help": "logits are divided by it (1)"}),
    ("--top-k", {"type": int, "default": 0, "help": "only the k likeliest tokens; 0: all (0)"}),
    ("--top-p", {"type": float, "default": 1.0, "help": "only the likeliest tokens that together have this probability (1)"}),
    ("--min-p", {"type": float, "default": 0.0, "help": "only tokens with this share of the likeliest one's probability (0)"}),
    ("--stop", {"action": "append", "default": [], "metavar": "TEXT", "help": "a text that ends a sample; may be given several times"}),
    ("--filter", {"metavar": "RUN", "help": "drop samples that leave the goal of this run of goal_reward"}),
    ("--filter-threshold", {"type": float, "default": None, "help": "with --filter: the lowest cosine with the goal that is kept (0)"}),
    ("--guide", {"metavar": "RUN", "help": "of --samples (4) next lines take the likeliest and nearest to the goal of this run"}),
    ("--guide-weight", {"type": float, "default": None, "help": "with --guide: of the cosine against nats per token (1)"}),
    ("--guide-steps", {"type": int, "default": None, "help": "with --guide: lines of --max-new-tokens at most, of an answer (16)"}),
    ("--seed", {"type": int, "default": 0, "help": "of the random draws (0)"}),
    ("--places", {"type": int, "default": None, "help": "prompts that are answered at a time (64)"}),
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
    training = _training(options.filter or options.guide)
    with jax.set_mesh(sharding.whole_mesh()):
        return _draw(options, training) if options.chat is None else _chat(options)


def _check(options):
    from jaxalign.config.schema import LARGEST_SEED

    named = bool(options.workdir) + bool(options.checkpoint)
    if options.chat is None and named != 1 or options.chat == [] and named != 1:
        raise ValueError("give --workdir RUN or --checkpoint FOLDER: one of them speaks.")
    if options.chat and (named or len(options.chat) > 2):
        raise ValueError(f"--chat takes one model or two, and {len(options.chat) + named} are named; leave the others out.")
    if options.chat is None and bool(options.prompts) == (options.prompt is not None):
        raise ValueError("give --prompts FILE or --prompt TEXT: one of them asks.")
    if options.chat is not None:
        for name in ("prompts", "prompt", "out", "limit", "samples", "places", "lanes", "filter", "guide"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name} has no effect with --chat; leave it out.")
    for name, without in (("step", "workdir"), ("limit", "prompts")):
        if getattr(options, name) is not None and not getattr(options, without):
            raise ValueError(f"--{name} has no effect without --{without}; leave it out.")
    for name, without in (("filter_threshold", "filter"), ("guide_weight", "guide"), ("guide_steps", "guide")):
        if getattr(options, name) is not None and not getattr(options, without):
            raise ValueError(f"--{name.replace('_', '-')} has no effect without --{without} RUN; leave it out.")
    if options.filter and options.guide:
        raise ValueError("--filter drops whole answers and --guide chooses each line of one; give one of them.")
    for name in ("filter_threshold", "guide_weight"):
        if getattr(options, name) is not None and not math.isfinite(getattr(options, name)):
            raise ValueError(f"--{name.replace('_', '-')} {getattr(options, name)} must be a finite number.")
    if options.guide and (options.stop or options.places is not None or options.lanes is not None):
        raise ValueError("--stop, --places and --lanes have no effect with --guide, whose steps are lines; leave them out.")
    if options.greedy and options.temperature not in (0.0, 1.0):
        raise ValueError(f"--greedy takes the likeliest token, and --temperature {options.temperature} draws; give one of them.")
    for name in ("samples", "places", "lanes", "limit", "guide_steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(options, name)} must be at least 1.")
    if options.out and Path(options.out).is_dir():
        raise ValueError(f"--out {options.out} is a folder; name a file in it.")
    if not 0 <= options.seed <= LARGEST_SEED:
        raise ValueError(f"--seed {options.seed} must be in 0 to {LARGEST_SEED}.")


class _Model:
    """A named model that speaks as the options say."""

    def __init__(self, name, options):
        from jaxalign.models import model as models
        from jaxalign.sampling import speaker
        from jaxalign.training.sources import Source

        self.name, self._options, self.source = name, options, Source(name)
        self.voice = speaker.of_source(self.source, template=options.template)
        self.model, self.dtype = models.build(self.source.config()), models.dtype_of(options.dtype)

    def sampler(self, *, places, lanes, strings=()):
        from jaxalign.sampling.law import Law
        from jaxalign.sampling.sampler import Sampler
        from jaxalign.sampling.stopping import Stopping

        options = self._options
        return Sampler(
            self.model,
            law=Law(0.0 if options.greedy else options.temperature, options.top_k, options.top_p, options.min_p),
            stopping=Stopping(options.max_new_tokens, options.min_new_tokens, self.voice.stop_ids, (*options.stop, *strings)),
            seed=options.seed,
            places=places,
            lanes=lanes,
            dtype=self.dtype,
            attention="xla",
            text_of=self.voice.text,
        )


def _named(options):
    return options.checkpoint or (f"{options.workdir}@{options.step}" if options.step else options.workdir)


def _chat(options):
    from jaxalign.sampling.conversation import Talker
    from jaxalign.sampling.terminal import Chat

    talkers = []
    for name in options.chat or [_named(options)]:
        speaking = _Model(name, options)
        talkers.append(Talker(name, speaking.voice, speaking.sampler(places=1, lanes=1), speaking.source.load(speaking.model)))
    return 0 if Chat(talkers, seed=options.seed).run() or sys.stdin.isatty() else 1


def _training(name):
    """The configuration of the run whose goal is asked for; None where none is."""
    from jaxalign.config import goal_of_run

    return goal_of_run.training_of(name) if name else None


def _draw(options, training):
    from jaxalign.data import progress
    from jaxalign.sampling import lines, speaker

    speaking, samples = _Model(_named(options), options), options.samples or 1
    voice = speaking.voice
    asked = speaker.asked_text(options.prompt) if options.prompt is not None else speaker.asked_file(options.prompts, limit=options.limit)
    prompts = [voice.ids(one) for one in asked]
    if options.guide:
        return _guided(options, _guide(options.guide, training, speaking), speaking, asked, prompts)
    guide = _guide(options.filter, training, speaking) if options.filter else None
    lanes = max(1, samples // 4) if options.lanes is None else options.lanes
    sampler = speaking.sampler(places=min(options.places or 64, len(prompts) * samples), lanes=lanes)
    sampler.check(prompts, names=[one.id for one in asked])
    out = _lines(options, speaking, sampler, prompts, [one.id for one in asked]) if options.out else None
    params = speaking.source.load(speaking.model)
    done, start, ends = out.done if out else set(), time.monotonic(), collections.Counter()
    drawn = {}
    with progress.bar(len(prompts) * samples - len(done), f"generating {options.out}", quiet=out is None) as advance:
        for sample in sampler.draw(params, prompts, samples=samples, done=done):
            prompt, asked_id = prompts[sample.prompt], asked[sample.prompt].id
            text = voice.spoken(prompt, sample, sampler.stopping)
            ends[sample.stop] += 1
            line = lines.line(asked_id, voice.shown(prompt), text, sample)
            if out:
                out.add((sample.prompt, sample.number), line)
            elif guide:
                drawn[sample.prompt, sample.number] = line
            else:
                print(f"[{asked_id}.{sample.number}] {text}\n", flush=True)
            advance(1)
    _report(options, sampler.usage, time.monotonic() - start, ends)
    if guide:
        _filter(options, guide, asked, prompts, out.read() if out else [drawn[key] for key in sorted(drawn)])


def _guide(name, training, speaking):
    from jaxalign.config import goal_of_run

    return goal_of_run.guide(name, training, speaking.voice.renderer, dtype=speaking.dtype, quiet=False)


def _filter(options, guide, asked, prompts, lines):
    """Writes or prints the lines that are left, and tells what the filter did."""
    import jax

    from jaxalign.reports import log
    from jaxalign.sampling import filtered

    samples = options.samples or 1
    by_prompt = [lines[first : first + samples] for first in range(0, len(lines), samples)]
    ids = [[line["token_ids"] for line in own] for own in by_prompt]
    along = filtered.cosines(guide.judge, guide.aim, prompts, ids, rows=8 * jax.device_count(), quiet=False)
    texts = [[line["text"] for line in own] for own in by_prompt]
    left = filtered.keep(along, texts, [one.answer for one in asked], threshold=options.filter_threshold or 0.0)
    shown = [
        line | {"lowest_cosine": round(lowest, 5)}
        for own, kept, values in zip(by_prompt, left.kept, left.lowest, strict=True)
        for line, here, lowest in zip(own, kept, values, strict=True)
        if here
    ]
    if options.out:
        file = Path(options.out).with_suffix(".kept.jsonl")
        log.write_lines(file, shown)
        print(f"{len(shown):,} samples are left: {file}", file=sys.stderr)
    else:
        for line in shown:
            print(f"[{line['id']}.{line['sample']}] {line['text']}\n", flush=True)
    print("\n".join(left.report), file=sys.stderr)


def _guided(options, guide, speaking, asked, prompts):
    """Answers whose every line is chosen by the goal of --guide."""
    from jaxalign.data import progress
    from jaxalign.sampling import guided

    samples, steps = options.samples or 4, options.guide_steps or 16
    sampler = speaking.sampler(places=1, lanes=samples, strings=("\n",))
    sampler.check(prompts, names=[one.id for one in asked])
    how = {"samples": samples, "weight": 1.0 if options.guide_weight is None else options.guide_weight}
    out = _lines(options, speaking, sampler, prompts, [one.id for one in asked], guide=guide, **how, steps=steps) if options.out else None
    params, done = speaking.source.load(speaking.model), out.done if out else set()
    with progress.bar(len(prompts) - len(done), f"generating {options.out}", quiet=out is None) as advance:
        for number, (one, ids) in enumerate(zip(asked, prompts, strict=True)):
            if (number, 0) in done:
                continue
            fitting = (speaking.model.config.max_positions - len(ids)) // options.max_new_tokens
            answer = guided.answer(sampler, params, ids, guide.judge, guide.aim, steps=min(steps, fitting), **how)
            said = answer.token_ids[:-1] if answer.finished else answer.token_ids
            text = speaking.voice.text(ids, said)
            line = {"id": one.id, "sample": 0, "prompt": speaking.voice.shown(ids), "text": text, "token_ids": list(answer.token_ids)}
            line |= {"cosines": answer.cosines, "logps_per_token": answer.chances, "stop": "stop" if answer.finished else "length"}
            if out:
                out.add((number, 0), line)
            else:
                print(f"[{one.id}.0] {text}\n", flush=True)
            advance(1)
    return None


def _lines(options, speaking, sampler, prompts, ids, *, guide=None, **how):
    from jaxalign.manifest import content_hash
    from jaxalign.sampling import lines

    samples = 1 if guide else options.samples or 1
    settings = {"model": speaking.name, "weights": speaking.source.identity(), "prompts": content_hash(prompts), "samples": samples}
    settings |= {"law": str(sampler.law), "stopping": str(sampler.stopping), "seed": options.seed, "dtype": str(sampler.dtype)}
    if guide:
        settings |= {"guide": options.guide, "guide_weights": guide.judge.weights, **{f"guide_{name}": x for name, x in how.items()}}
    return lines.Lines(Path(options.out), ids=ids, samples=samples, settings=settings)


def _report(options, usage, seconds, ends):
    ways = {"stop": "by a stop token", "string": "by a stop string", "length": f"at {options.max_new_tokens} tokens"}
    ended = ", ".join(f"{ends[why]:,} {way}" for why, way in ways.items() if ends[why])
    rate = f"{usage.tokens:,} tokens in {seconds:.1f} s, {usage.tokens / seconds:,.0f} per second with compilation"
    print(f"{rate}; {usage.busy:.0%} of the lanes were busy; {ended or 'nothing was left to draw'}", file=sys.stderr)
    if options.stop and ends and not ends["string"]:
        texts = ", ".join(map(repr, options.stop))
        print(f"no sample contained --stop {texts}: each went on until something else ended it.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

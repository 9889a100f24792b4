"""Samples of a model for the prompts of a file, or for one prompt.

    python -m jaxalign.generate --workdir runs/NAME --prompts FILE --out samples.jsonl [--samples 4]
    python -m jaxalign.generate --checkpoint FOLDER --prompt "Once upon a time"
    python -m jaxalign.generate --chat runs/NAME [FOLDER]

    python -m jaxalign.generate --workdir runs/NAME --prompts FILE --samples 16 --out samples.jsonl --filter runs/REWARD
    python -m jaxalign.generate --workdir runs/NAME --prompts FILE --out samples.jsonl --guide runs/REWARD

--filter drops samples that leave the goal of a run of goal_reward, into FILE.kept.jsonl beside --out, and tells the vote of the others.
--guide chooses each line of an answer by that goal, up to --guide-steps lines ("stop" of a line is then "steps") or to the last position
of the models ("positions").

Without --out the texts are printed. A file that was not finished is continued by the same command, and ends as if it had not been stopped.
"""

from collections.abc import Sequence
import contextlib
from pathlib import Path
import sys

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
    ("--temperature", {"type": float, "help": "logits are divided by it (1)"}),
    ("--top-k", {"type": int, "default": 0, "help": "only the k likeliest tokens; 0: all (0)"}),
    ("--top-p", {"type": float, "default": 1.0, "help": "only the likeliest tokens that together have this probability (1)"}),
    ("--min-p", {"type": float, "default": 0.0, "help": "only tokens with this share of the likeliest one's probability (0)"}),
    ("--stop", {"action": "append", "default": [], "metavar": "TEXT", "help": "a text that ends a sample; may be given several times"}),
    ("--filter", {"metavar": "RUN", "help": "drop samples that leave the goal of this run of goal_reward"}),
    ("--filter-threshold", {"type": float, "default": None, "help": "with --filter: the lowest cosine with the goal that is kept (0)"}),
    ("--guide", {"metavar": "RUN", "help": "of --samples (4) next lines take the likeliest and nearest to the goal of this run"}),
    ("--guide-weight", {"type": float, "default": None, "help": "with --guide: of the cosine against nats per token (1)"}),
    ("--guide-steps", {"type": int, "default": None, "help": "with --guide: lines of --max-new-tokens at most, of an answer (16)"}),
    ("--seed", {"type": int, "help": "of the random draws (0)"}),
    ("--places", {"type": int, "default": None, "help": "prompts that are answered at a time (64)"}),
    ("--lanes", {"type": int, "default": None, "help": "samples of a prompt that are drawn at a time (default: a quarter of --samples)"}),
    ("--dtype", {"choices": ("auto", "float32", "bfloat16"), "default": "auto", "help": "auto: float32 on CPU, bfloat16 elsewhere"}),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws samples, and prints them or writes them; returns the exit code."""
    return run(_generate, argv)


def _generate(argv):
    options = parse(argv, __doc__.splitlines()[0], FLAGS, command="generate")
    from jaxalign.config import speech_flags

    speech_flags.check(options)
    import logging

    import jax

    from jaxalign import sharding

    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns that it only reads
    training = _training(options.filter or options.guide)
    with jax.set_mesh(sharding.whole_mesh()):
        return _draw(options, training) if options.chat is None else _chat(options)


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
        from jaxalign.config import speech_flags
        from jaxalign.sampling.law import Law
        from jaxalign.sampling.sampler import Sampler
        from jaxalign.sampling.stopping import Stopping

        options = self._options
        return Sampler(
            self.model,
            law=Law(speech_flags.temperature(options), options.top_k, options.top_p, options.min_p),
            stopping=Stopping(options.max_new_tokens, options.min_new_tokens, self.voice.stop_ids, (*options.stop, *strings)),
            seed=options.seed or 0,
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
    return 0 if Chat(talkers, seed=options.seed or 0).run() or sys.stdin.isatty() else 1


def _training(name):
    """The configuration of the run whose goal is asked for; None where none is."""
    from jaxalign.config import goal_of_run

    return goal_of_run.training_of(name) if name else None


def _draw(options, training):
    from jaxalign.config import goal_of_run
    from jaxalign.sampling import lines

    speaking, samples = _Model(_named(options), options), options.samples or 1
    asked, prompts, counts = _asked(options, speaking)
    if training:
        goal_of_run.check_writing(options.guide or options.filter, speaking.voice.renderer)
    if options.guide:
        return _guided(options, training, speaking, asked, prompts, counts)
    lanes = max(1, samples // 4) if options.lanes is None else options.lanes
    sampler, voice = speaking.sampler(places=min(options.places or 64, len(prompts) * samples), lanes=lanes), speaking.voice

    def drawn(params, done):
        for sample in sampler.draw(params, prompts, samples=samples, done=done):
            prompt = prompts[sample.prompt]
            text = voice.spoken(prompt, sample, sampler.stopping)
            yield (sample.prompt, sample.number), lines.line(asked[sample.prompt].id, voice.shown(prompt), text, sample)

    with _lines(options, speaking, sampler, prompts, [one.id for one in asked]) as out:
        guide = _guide(options.filter, training, speaking) if training else None
        made = _written(options, speaking, sampler, drawn, out, counts, total=len(prompts) * samples)
        if guide:
            _filter(options, guide, asked, prompts, out.read() if out else made)
    return 0


def _asked(options, speaking):
    """(prompts that can be answered, their token ids, counts of their rows); what was dropped is told."""
    from jaxalign.config.rollout_rules import room_of_prompts
    from jaxalign.data.raw.counts import Counts
    from jaxalign.sampling import guided, speaker
    from jaxalign.training.sources import Source

    config, counts, renderer = speaking.model.config, Counts(), speaking.voice.renderer
    judge = options.guide or options.filter  # it reads the prompt and the answer as well
    positions = guided.positions_of(config, Source(judge).decoder()) if judge else config.max_positions
    # a guided line ends where the models do
    room = positions - 1 if options.guide else room_of_prompts("--max-new-tokens", options.max_new_tokens, positions)
    able = {"most_tokens": room, "vocab_size": config.vocab_size}
    if options.prompt is not None:
        asked = speaker.asked_text(options.prompt)
        return asked, [speaker.prompt_ids(renderer, asked[0], **able)], counts
    rows = speaker.asked_file(options.prompts, counts, limit=options.limit)
    pairs = list(speaker.askable(rows, renderer, counts, **able))
    if not pairs:
        raise ValueError("\n".join([f"{options.prompts} has no prompt that can be answered:", *counts.lines()]))
    asked, prompts = map(list, zip(*pairs, strict=True))
    for line in (*(counts.lines() if counts.rules else ()), *speaker.shared_id(asked)):
        print(line, file=sys.stderr)
    return asked, prompts, counts


def _written(options, speaking, sampler, drawn, out, counts, *, total, steps=None):
    """Draws samples, and writes or prints their lines, or gives them in order where they are to be filtered; tells a summary."""
    from jaxalign.data import progress
    from jaxalign.sampling.summary import Summary

    params, done, kept = speaking.source.load(speaking.model), out.done if out else set(), {}
    summary = Summary(sampler.usage, sampler.stopping, counts, steps)
    how = {"quiet": out is None, "unit": "samples", "tokens": lambda: sampler.usage.tokens}
    with progress.bar(total - len(done), f"generating {options.out}", **how) as advance:
        for key, line in drawn(params, done):
            summary.ends[line["stop"]] += 1
            if out:
                out.add(key, line)
            elif options.filter:
                kept[key] = line
            else:
                print(f"[{line['id']}.{line['sample']}] {line['text']}\n", flush=True)
            advance(1)
    print("\n".join(summary.lines(options.stop)), file=sys.stderr)
    return [kept[key] for key in sorted(kept)]


def _guide(name, training, speaking):
    from jaxalign.config import goal_of_run

    return goal_of_run.guide(name, training, dtype=speaking.dtype, quiet=False)


def _filter(options, guide, asked, prompts, lines):
    """Writes or prints the lines that are left, and tells what the filter did."""
    import jax

    from jaxalign.config import speech_flags
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
        file = speech_flags.kept_file(options.out)
        log.write_lines(file, shown)
        print(f"{len(shown):,} samples are left: {file}", file=sys.stderr)
    else:
        for line in shown:
            print(f"[{line['id']}.{line['sample']}] {line['text']}\n", flush=True)
    print("\n".join(left.report), file=sys.stderr)


def _guided(options, training, speaking, asked, prompts, counts):
    """Answers whose every line is chosen by the goal of --guide."""
    from jaxalign.sampling import guided

    samples, steps = options.samples or 4, options.guide_steps or 16
    sampler, voice = speaking.sampler(places=1, lanes=samples, strings=("\n",)), speaking.voice
    how = {"samples": samples, "weight": 1.0 if options.guide_weight is None else options.guide_weight, "steps": steps}

    def drawn(params, done):
        for number, (one, ids) in enumerate(zip(asked, prompts, strict=True)):
            if (number, 0) not in done:
                answer = guided.answer(sampler, params, ids, guide.judge, guide.aim, **how)
                text = voice.text(ids, answer.token_ids[:-1] if answer.stop == "stop" else answer.token_ids)
                line = {"id": one.id, "sample": 0, "prompt": voice.shown(ids), "text": text, "token_ids": list(answer.token_ids)}
                yield (number, 0), line | {"cosines": answer.cosines, "logps_per_token": answer.chances, "stop": answer.stop}

    with _lines(options, speaking, sampler, prompts, [one.id for one in asked], **how) as out:
        guide = _guide(options.guide, training, speaking)
        _written(options, speaking, sampler, drawn, out, counts, total=len(prompts), steps=steps)
    return 0


def _lines(options, speaking, sampler, prompts, ids, **how):
    """The file of --out, locked while it is written; a context of None without it."""
    if not options.out:
        return contextlib.nullcontext()
    from jaxalign.manifest import content_hash
    from jaxalign.sampling import lines
    from jaxalign.scoring import scorer
    from jaxalign.training.sources import Source

    samples = 1 if options.guide else options.samples or 1
    settings = {"model": speaking.name, "weights": speaking.source.identity(), "prompts": content_hash(prompts), "samples": samples}
    settings |= {"law": str(sampler.law), "stopping": str(sampler.stopping), "seed": sampler.seed, "dtype": str(sampler.dtype)}
    if options.guide:
        weights = scorer.weights_of(Source(options.guide))
        settings |= {"guide": options.guide, "guide_weights": weights, **{f"guide_{name}": x for name, x in how.items()}}
    return lines.Lines(Path(options.out), ids=ids, samples=samples, settings=settings)


if __name__ == "__main__":
    sys.exit(main())

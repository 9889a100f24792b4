"""Held-out metrics of a checkpoint and of the model that its training started from, without training.

    python -m jaxalign.evaluate --workdir runs/NAME [--step N] [--config.data.eval.path=other.jsonl]
    python -m jaxalign.evaluate --config configs/NAME.py --checkpoint FOLDER

    python -m jaxalign.evaluate --workdir runs/NAME --against reference --reward model:runs/REWARD [--prompts FILE]

A run is evaluated with the configuration in its checkpoint, in which any key can be replaced; a folder of weights with that of a file.
--reward and --against make the model answer prompts, and judge its answers: they set keys of eval.generate.
"""

import contextlib
import hashlib
import json
from pathlib import Path
import shlex
import sys
from typing import Any, NamedTuple

from jaxalign import outputs
from jaxalign.config.command_line import Run, local, parse_with_overrides, run, start_devices

PIPED_WIDTH = 160  # columns of a table that goes to a file or a pipe
OF_TRAINING = ("keep_best", "best_metric", "wandb")  # keys of train that an evaluation does not read, whatever is true of them here
OF_DRAWS = ("data.sampling", "data.sampling_column", "data.rollout")
OF_STEPS = ("train", "optimizer", "batch.gradient_accumulation_steps", *OF_DRAWS)  # what steps alone read
# What an evaluation of a run takes from its checkpoint. The first is read where the checkpoint does not hold the start of the run.
OF_MODEL = ("checkpoint", "preset", "config", "value_head", "reward_head", "critic", "critic_checkpoint", "trainable", "lora")
OF_CHECKPOINT = tuple(f"model.{key}" for key in OF_MODEL)
FLAGS = (
    ("--workdir", {"type": local, "help": "folder of a run or of one of its stages"}),
    ("--stage", {"help": "which stage of the run, or of the config"}),
    ("--step", {"help": "checkpoint to evaluate: its step, or best (default: the newest good one)"}),
    ("--config", {"metavar": "FILE.py[:ARGUMENT]", "help": "with --checkpoint: data and objective to evaluate with"}),
    ("--checkpoint", {"help": "with --config: folder of weights, or a name on the hub; model.checkpoint of the config is its reference"}),
    ("--out", {"type": local, "help": "file for the numbers, as JSON (default: WORKDIR/evaluations/NAME.json)"}),
    ("--against", {"metavar": "MODEL", "help": "compare answers with those of a run or a folder, of reference, or with chosen ones"}),
    ("--reward", {"action": "append", "metavar": "SPEC", "help": "gsm8k, FILE.py:NAME, model:NAME, a dict, ...; may be repeated"}),
    ("--judge", {"metavar": "SPEC", "help": "decides which of two answers is better: MODEL@URL or a reward (default: the only reward)"}),
    ("--prompts", {"metavar": "FILE", "help": "rows with prompts (default: the held-out rows)"}),
    ("--limit", {"metavar": "N", "help": "answer the first so many different prompts, or all (default: that of the run, else 64)"}),
    ("--samples", {"type": int, "help": "answers to every prompt"}),
    ("--max-new-tokens", {"type": int, "help": "an answer ends after so many tokens"}),
    ("--temperature", {"type": float, "help": "of the answers; 0: the likeliest token"}),
)


class Subject(NamedTuple):
    """What is evaluated."""

    cfg: Any  # resolved configuration
    model: Any
    weights: Any  # the --checkpoint, or (folder of the run, step)
    out: Path | None
    typed: list[str] = []  # keys of the configuration that the command line sets


def main(argv: list[str] | None = None) -> int:
    """Prints held-out metrics with their standard errors and counts, and writes them as JSON; returns the exit code."""
    return run(_evaluate, argv)


def _evaluate(argv):
    options, overrides = parse_with_overrides(argv, __doc__.splitlines()[0], FLAGS, command="evaluate")
    if bool(options.workdir) == bool(options.checkpoint):
        raise ValueError("give --workdir RUN, or --checkpoint FOLDER with --config FILE.py: one of them is evaluated.")
    if options.step and options.checkpoint:
        raise ValueError(f"--step is of --workdir; a step of a run is named --checkpoint RUN@{options.step}, and a folder has none.")
    if options.out:
        outputs.check_new(options.out)
    if bool(options.config) != bool(options.checkpoint):
        raise ValueError("--config and --checkpoint go together; a run is evaluated with its own configuration, and --config.KEY=VALUE.")
    from jaxalign.config import answer_flags

    overrides += answer_flags.overrides(options)
    subject = _of_run(options, overrides) if options.workdir else _of_folder(options, overrides)
    import jax

    from jaxalign.config import build

    named = _files(subject)
    if options.out and named[1:]:
        outputs.check_new(named[1], made="the file for the answers")
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(outputs.whole(file)) for file in named if jax.process_index() == 0]
        with jax.set_mesh(build.mesh(subject.cfg)):
            numbers, answers = _measure(subject)
        if jax.process_index() == 0:
            command = shlex.join(["python", "-m", "jaxalign.evaluate", *(sys.argv[1:] if argv is None else argv)])
            _report(subject, numbers)
            _write(files, subject, numbers, answers, command)
    if jax.process_index() == 0:
        for what, file in zip(("Numbers", "Answers"), named, strict=False):
            print(f"{what}: {file}", file=sys.stderr)


def _files(subject) -> list[Path]:
    """The files that are written: for the numbers, and where there are answers for them; none without --out and a run."""
    from jaxalign.reports.html.contents import SAMPLES

    if subject.out is None:
        return []
    answers = subject.out.with_name(subject.out.name.removesuffix(".json") + SAMPLES)
    return [subject.out, answers] if subject.cfg.eval.generate is not None else [subject.out]


def _of_run(options, overrides) -> Subject:
    """The subject of --workdir: configuration and model of a checkpoint."""
    from ml_collections import ConfigDict

    from jaxalign.config import stored
    from jaxalign.config.files import keys_of, override
    from jaxalign.config.resolve import resolve
    from jaxalign.config.schema import SCHEMA
    from jaxalign.training import runs

    workdir = Path(options.workdir) / (options.stage or "")
    step = runs.chosen(workdir, runs.parse_step(options.step, workdir))
    record = runs.record(workdir, step)
    config = ConfigDict(record["config"])
    config.model.tokenizer = record["tokenizer"]
    config.train.update({key: SCHEMA["train"][key].default for key in OF_TRAINING})
    override(config, overrides)
    typed = keys_of(overrides)
    cfg = resolve(ConfigDict(stored.settled(config.to_dict(), typed=typed)))
    _check_read(cfg, typed, OF_CHECKPOINT if _holds_start(cfg) else OF_CHECKPOINT[1:])
    start_devices(Run("", {"": cfg}, options))
    digest = hashlib.sha256(json.dumps(overrides).encode()).hexdigest()[:8]
    name = f"step-{step}{'-' + digest if overrides else ''}.json"
    out = Path(options.out) if options.out else workdir / "evaluations" / name
    return Subject(cfg, runs.model_of(record), (workdir, step), out, typed)


def _of_folder(options, overrides) -> Subject:
    """The subject of --checkpoint: the configuration of a file, or of one of its stages."""
    from jaxalign.config import build
    from jaxalign.config.files import keys_of, load_file, override
    from jaxalign.config.stages import check_placed, resolve_stages

    config = load_file(options.config)
    override(config, overrides)
    stages = resolve_stages(config)
    if (options.stage or "") not in stages:
        if "" in stages:
            raise ValueError(f"--stage {options.stage}: {options.config} has no stages; leave --stage out.")
        what = "is needed" if options.stage is None else "is no stage"
        raise ValueError(f"--stage {options.stage or '...'} {what}: {options.config} has the stages {', '.join(stages)}.")
    cfg = stages[options.stage or ""]
    cfg.model.lora = None  # a folder holds whole weights, or an adapter that is merged into its base
    check_placed(cfg, options.stage)
    typed, below = keys_of(overrides), f"{options.stage}." if options.stage else ""
    if other := [key for key in typed if not key.startswith(below)]:
        raise ValueError(f"--config.{other[0]} is of another stage than {options.stage}, which alone is evaluated; leave it out.")
    _check_read(cfg, [key.removeprefix(below) for key in typed], ())
    start_devices(Run("", {"": cfg}, options))
    build.check_weights(_with_checkpoint(cfg, options.checkpoint))
    return Subject(cfg, build.model(cfg), options.checkpoint, Path(options.out) if options.out else None)


def _holds_start(cfg) -> bool:
    """Whether a checkpoint of the run holds the weights that it started from."""
    from jaxalign.training.reference import RULES

    rule = RULES[cfg.reference.rule]
    return cfg.reference.rule == "frozen" or (rule.moves and rule.holds == "weights" and cfg.reference.keep_initial)


def _check_read(cfg, typed, further) -> None:
    """Raises ValueError where a key was typed that an evaluation of this configuration does not read; `further` are such keys."""
    from jaxalign.config import functions
    from jaxalign.hparams import hparams_of

    unread = [*OF_STEPS, *further]
    if not cfg.data.eval_fraction and cfg.data.row_tokens is not None:
        unread.append("data.train")
    looks_at_seed = "seed" in hparams_of(functions.function("forward", cfg.forward.name))
    draws_head = any(cfg.model[head] is not None for head in ("value_head", "reward_head", "critic"))
    if cfg.model.checkpoint is not None and not draws_head and not looks_at_seed:
        unread.append("seed")
    if idle := [key for key in typed if any(key == name or key.startswith(f"{name}.") for name in unread)]:
        raise ValueError(
            f"{', '.join(f'--config.{key}' for key in idle)}: an evaluation of this checkpoint does not read it, so the numbers would be "
            "those without it; leave it out."
        )


def _with_checkpoint(cfg, name: str):
    """A copy of the configuration with another model.checkpoint."""
    named = cfg.copy_and_resolve_references()
    named.model.checkpoint = name
    return named


def _measure(subject):
    """The `Comparison` of what is evaluated with the start of its run, and the lines of its answers."""
    from jaxalign.config import build, evaluations, functions
    from jaxalign.config.computed import with_columns
    from jaxalign.config.durations import Durations
    from jaxalign.config.prepared import held_out_sets, to_stderr
    from jaxalign.config.resume import check_evaluated
    from jaxalign.config.sets import check_rewards, check_rows
    from jaxalign.evaluators import comparison, held_out
    from jaxalign.evaluators.measured import Measured

    cfg, model = subject.cfg, subject.model
    judging = evaluations.check(cfg, model)
    check_evaluated(cfg, model, None if isinstance(subject.weights, str) else subject.weights, typed=subject.typed)
    objective, sets = functions.objective(cfg), held_out_sets(cfg)
    if not sets.held_out and not evaluations.has_some(cfg):
        raise ValueError("there is nothing to evaluate on; set data.eval, for example --config.data.eval.path=FILE.")
    check_rows(cfg, objective, model, sets.all)
    sets = with_columns(cfg, sets)
    check_rewards(cfg, objective, sets.all)
    beside = evaluations.evaluations(cfg, model, sets, judging=judging)
    # an evaluation makes no step
    made = build.functions(cfg, objective, model, Durations(total=1, planned=1, warmup=0, log_every=1, eval_every=1, save_every=1, every=1))

    def measure(state):
        by_prompt = {name: held_out.measure(made.eval_step, state, one, rows=cfg.batch.rows) for name, one in sets.held_out.items()}
        return Measured(by_prompt | held_out.divided(by_prompt, beside.labels)) | beside.measure(state)

    sides = {name: measure(state) for name, state in _states(subject, made)}
    to_stderr(beside.faults())
    origin = cfg.eval.generate and cfg.eval.generate.against
    return comparison.compare(sides.get("before"), sides["after"], origin=origin), sides["after"].lines


def _states(subject, functions):
    """Yields ("before", state of the start) and ("after", state of what is evaluated), one after the other."""
    import jax
    import jax.numpy as jnp

    from jaxalign.config import apart, build, evaluations
    from jaxalign.training import checkpoint
    from jaxalign.training.runs import CheckpointError

    cfg, model = subject.cfg, subject.model
    if isinstance(subject.weights, str):
        start = apart.seated(cfg, model, functions.init_state(build.params(cfg, model)))
        yield "before", start
        state = functions.init_state(build.params(_with_checkpoint(cfg, subject.weights), model))
        yield "after", state.replace(reference=start.reference, initial=start.initial)
        return
    workdir, step = subject.weights
    try:
        abstract = apart.left_out(cfg, model, build.abstract_state(cfg, model, functions.init_state))
        state = apart.seated(cfg, model, checkpoint.restore(workdir, abstract, step), run=(workdir, step))
    except CheckpointError as error:
        if not subject.typed:
            raise
        typed = ", ".join(f"--config.{key}" for key in subject.typed)
        raise CheckpointError(f"the checkpoint of step {step} has no state for an evaluation with {typed}: {error}") from error
    first = evaluations.held_start(cfg, state)
    if first is not None:
        nothing_seen = jax.tree.map(jnp.zeros_like, state.statistics)
        yield "before", state.replace(trainable=first, step=jnp.zeros_like(state.step), statistics=nothing_seen)
    else:
        try:
            start = apart.seated(cfg, model, functions.init_state(build.params(cfg, model)))
        except (ValueError, OSError) as error:
            print(f"What the run started from is not there any more: {error}", file=sys.stderr)
        else:
            yield "before", start
    yield "after", state


def _report(subject, numbers):
    import rich.console
    import rich.table

    from jaxalign.config import describe
    from jaxalign.reports import alarms, page, wording
    from jaxalign.reports.estimates import MISSING

    before, after, first = numbers.start, numbers.checkpoint, page.headline(numbers.checkpoint)
    table = rich.table.Table("held out", "start", "checkpoint (± 1 SE)", "change", "prompts")
    for name in [*first, *sorted(set(after) - set(first))]:
        n, changed = after[name].n, numbers.change.get(name, MISSING)
        table.add_row(name, str(before.get(name, MISSING)), str(after[name]), changed.beside(n), f"{n:,}")
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(table)
    how = [f"How they were drawn and judged: {wording.text(one)}." for one in describe.answers(subject.cfg).values()]
    for sentence in (*numbers.sentences(), *how, *alarms.falling(before, after)):
        console.print(sentence, highlight=False)


def _write(files, subject, numbers, answers, command):
    from jaxalign.config import describe

    for file in files[:1]:
        file.write_text(json.dumps(describe.evaluation(subject.cfg, command) | numbers.as_dict(), indent=1), encoding="utf-8")
    for file in files[1:]:
        file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in answers), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

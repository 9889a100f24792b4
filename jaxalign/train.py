"""`python -m jaxalign.train --config configs/NAME.py`: from a configuration to a trained model, in one loop.

Read this file first. A run prepares its data, builds its objects, and goes through the loop of `_loop`, whose order is a contract: evaluate
and save come *before* the step, so a checkpoint of step s is the state after s steps, its data position is s, and what the held-out
metrics of step s say is what the checkpoint holds. Starting again with the same --workdir continues from the newest checkpoint.
"""

import dataclasses
import functools
import logging
from pathlib import Path
import shlex
import sys
import time

from jaxalign import hidden
from jaxalign.config.command_line import PROCESSES, from_command_line, local, run, start_devices, workdir_of
from jaxalign.hosts import watch
from jaxalign.reports import start_up
from jaxalign.training.parts import Parts

SELFCHECK = "first run the checks of jaxalign.selfcheck that need no gradient (cheap, where nothing stands after it), or all of them"
AHEAD = 2  # steps that devices may have before them beside the one they are at: a request to stop waits for no more
FLAGS = (
    ("--workdir", {"type": local, "help": "folder of the run (default: runs/NAME); an existing one is continued"}),
    *PROCESSES,
    ("--selfcheck", {"nargs": "?", "const": "cheap", "choices": ("cheap", "all"), "help": SELFCHECK}),
    ("--stopped-exit-code", {"type": int, "default": 0, "help": "exit code after a request to stop, for schedulers that then start again"}),
)


def main(argv: list[str] | None = None) -> int:
    """Trains every stage of the configuration in turn; returns the exit code."""
    return run(_train, argv)


def _train(argv):
    asked = from_command_line(argv, __doc__.splitlines()[0], FLAGS, command="train")
    start_devices(asked)
    from jaxalign.config import checked, preflight
    from jaxalign.reports import summary
    from jaxalign.training.stop import StopRequest

    workdir, typed = workdir_of(asked), sys.argv[1:] if argv is None else argv
    logging.getLogger("absl").setLevel(logging.WARNING)  # orbax logs every file
    began = start_up.process_began() if argv is None else time.monotonic()
    lost_code = asked.options.stopped_exit_code or watch.LOST_CODE
    with watch.watching(preflight.watch_of(asked, lost_code=lost_code)) as channel, StopRequest() as stop, start_up.Clock(began) as clock:
        clock.lap("imports")
        preflight.check(asked.stages, channel=channel)
        checked.first(asked.stages, asked.options.selfcheck, workdir=workdir)
        clock.lap("checks")
        command = hidden.without(shlex.join(["python", "-m", "jaxalign.train", *typed]))
        for name, stage in _stages(asked, workdir, command, clock).items():
            if stop.requested() or not stage.run(workdir / name, stop):
                return asked.options.stopped_exit_code
            clock.lap("earlier stages")
    if "" not in asked.stages and not asked.options.process:
        summary.write_stages(workdir, list(asked.stages), title=asked.name)
        print(f"All stages on one page: {workdir / 'summary.md'}", file=sys.stderr)
    return 0


def _stages(asked, workdir: Path, command: str, clock: start_up.Clock) -> dict:
    """Stage name -> something with `run(workdir, stop)`, which is False if it was stopped before its end."""
    from jaxalign import experiments
    from jaxalign.config.stages import exported_stages, place_stages, training_stages

    exported, training = exported_stages(asked.stages), training_stages(asked.stages)
    for name, cfg in training.items():
        place_stages(cfg, workdir)
        cfg.train.export = cfg.train.export or name in exported
    return {
        name: Training(name or asked.name, cfg, command, clock) if name in training else experiments.Experiment(**cfg.experiment.to_dict())
        for name, cfg in asked.stages.items()
    }


@dataclasses.dataclass(frozen=True)
class Training:
    """A stage that trains a model."""

    name: str
    cfg: object  # the resolved configuration
    command: str  # what was typed, for the summary
    clock: start_up.Clock

    def run(self, workdir: Path, stop) -> bool:
        """Trains in `workdir`, or goes on there; False if `stop` (a StopRequest) asked for it before the end."""
        self.clock.restart()
        return train(self.cfg, workdir, name=self.name, stop=stop, command=self.command, clock=self.clock)


def train(cfg, workdir: Path, *, name: str, stop, command: str, clock: start_up.Clock) -> bool:
    """Runs one resolved configuration in `workdir`, as `command` asked; False if `stop` (a StopRequest) asked for it before its end.

    Raises:
      ValueError: configuration, data and model do not fit; before anything is compiled.
      CheckpointError: a checkpoint could not be written.
      FloatingPointError: the loss is not finite; the last good checkpoint stays.
    """
    import jax

    from jaxalign.config import build, computed, describe, evaluations, functions, preflight, remat, rollouts
    from jaxalign.config.durations import durations
    from jaxalign.config.resume import first_state, open_run
    from jaxalign.config.sets import check_best, class_weights
    from jaxalign.training import checkpoint, exports, roll_back, runs, starts

    with jax.set_mesh(build.mesh(cfg)), checkpoint.only_run(workdir):
        clock.lap("imports")
        objective, model = functions.objective(cfg), build.model(cfg)
        saved, start, hashes = open_run(cfg, model, workdir)
        judging = evaluations.check(cfg, model)
        rolling = rollouts.rolling(cfg, model, objective, reward=rollouts.check(cfg, model))
        clock.lap("checks")
        watch.at("the rows", limited=False)
        sets, before = computed.checked_sets(cfg, objective, model), saved.read_run(start) if start else {}
        kept = build.write_tokenizer(cfg, workdir / runs.TOKENIZER, before=before)
        beside = evaluations.evaluations(cfg, model, sets, judging=judging)
        lengths = durations(cfg, sets.train)
        batches = _batches(cfg, sets, lengths)
        remat.settle(cfg, model, before)
        made = build.functions(cfg, objective, model, lengths, rolling)
        check_best(cfg, lengths, lambda: build.held_out_metrics(cfg, model, made, sets.held_out) | beside.names())
        prepared = [*sets.names(), *([rolling.prepared] if rolling else [])]
        preflight.check_rows(cfg, name, sets, prepared)
        clock.lap("data")
        begin = functools.partial(first_state, cfg, model, made, saved, lengths=lengths, prepared=prepared, workdir=workdir)
        state, evaluated = begin(start)
        futile = starts.futile(workdir, start, name=name) if start < lengths.total else ""  # a run that ended may be looked at often
        known, policy = {"prepared": prepared, "tokenizer_files": kept, **hashes}, build.policy(cfg)
        loop = Parts(cfg, name, workdir, model, made, begin, batches, sets, lengths, saved, known, policy, beside, clock, futile)
        loop.open(start, roll_back.recorded(before))
        loop.log.say(describe.beginning(cfg, model, sets.train, lengths, workdir, step=start))
        for note in (*lengths.notes, *filter(None, [rolling and rolling.described, class_weights(cfg, objective, sets.train)])):
            loop.log.say(note)
        try:
            state, finished = _trained(loop, state, start, stop, evaluated=evaluated)
            saved.close()
        finally:
            loop.log.close()
        if finished and cfg.train.export:
            params = {**(state.frozen or {}), **state.trainable}
            exports.refresh(build.export_folder(workdir), model, params, workdir=workdir, step=lengths.total, dtype=cfg.train.export_dtype)
        if jax.process_index() == 0:
            _summarize(loop, finished, start_step=start, command=command, seconds=time.monotonic() - clock.began)
        saved.copy()
        watch.barrier("the end of the run", limited=False)  # jax gives those that end first five minutes, and then ends the others
    return finished


def _batches(cfg, sets, lengths):
    """What makes the batches of this process; too few rows are refused now."""
    import jax

    from jaxalign.config import build
    from jaxalign.data.rows import loader

    hosts = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    steps = {"steps": lengths.total + lengths.every, "sampling": build.sampling(cfg)}  # a source may look so far ahead
    batches = functools.partial(loader.batches, sets.train, rows=cfg.batch.rows, seed=cfg.seed, **steps, **hosts)
    if sets.train:
        batches()
    return batches


def _trained(run: Parts, state, start: int, stop, *, evaluated: bool):
    """As `_loop`, which begins again at the last good checkpoint where a step goes wrong and train.on_nan or on_spike is "roll_back"."""
    from jaxalign.training.roll_back import RollBack

    while True:
        try:
            return _loop(run, state, start, stop, evaluated=evaluated)
        except RollBack as bad:
            state = None
            watch.at("the checkpoint to roll back to", limited=False)
            start, skipped, told = run.policy.back(bad, run.skipped, run.saved)
        run.log.close()
        run.open(start, skipped, aside=f"rolled_back_{skipped.times}.jsonl")
        run.log.say(told)
        state, evaluated = run.begin(start)


def _loop(run: Parts, state, start: int, stop, *, evaluated: bool):
    """(state, True) after the last step; (state, False) after a request to stop. Evaluates and saves before the step.

    `evaluated`: the held-out metrics of step `start` are in the checkpoint that the run continues from.
    """
    import jax

    from jaxalign.config import build, rollouts, teacher
    from jaxalign.evaluators import held_out
    from jaxalign.reports.flops import Meter
    from jaxalign.training import guards

    run.clock.lap("weights")
    every, total, sets = run.lengths, run.lengths.total, run.sets.held_out
    batches = run.functions.source(run.batches(skipped=run.skipped.batches) if run.sets.train else None, start)
    theirs = teacher.model(run.cfg)
    meter = Meter(run.model.config, **build.work(run.cfg, run.model), teacher=theirs and theirs.config)
    pending = []
    ahead = 0 if jax.process_count() > 1 and jax.default_backend() == "cpu" else AHEAD  # queued steps of several CPU processes can hang
    for step in range(start, total + 1):
        watch.at(f"step {step}")
        stopping, held_out_metrics = step < total and stop.requested(step), None
        if (sets or run.beside) and not stopping and _is_due(step, every.eval_every, total) and not (evaluated and step == start):
            _flush(run, pending, meter)
            beside = {"follow": [functools.partial(samples.record, step) for samples in run.samples], "labels": run.beside.labels}
            estimates = held_out.evaluate(run.functions.eval_step, state, sets, rows=run.cfg.batch.rows, **beside)
            watch.at(f"the evaluation at step {step}", limited=False)
            estimates |= run.beside.evaluate(state, step, run.log)
            held_out_metrics = {name: estimate.value for name, estimate in estimates.items()}
            run.log.held_out(step, estimates)
            meter.restart()
            run.clock.lap("evaluation")
        if step > start and (stopping or step == total or _is_due(step, every.save_every, total)):
            _flush(run, pending, meter)
            watch.at(f"the save of step {step}")
            _save(run, state, step, held_out_metrics)
            meter.restart()
        if step == total or stopping:
            _flush(run, pending, meter)
            watch.at("the last save", limited=False)
            return state, step == total
        watch.at(f"the batch of step {step}", limited=run.cfg.data.rollout is None)
        state, arrays, batch = batches.next(state, step)
        window, lines = batches.news()
        for line in lines:
            run.log.say(line)
        if guards.is_beyond(window.get("rollout/kl"), run.cfg.train.max_kl):  # the log shows how it came to that
            _flush(run, pending, meter)
            run.log.metrics("train", step, window)
        limit = {"most": run.cfg.train.max_kl, "saved": run.saved, "learning_rate": run.cfg.optimizer.learning_rate}
        guards.check_kl(window.get("rollout/kl"), step, **limit, pulls=rollouts.pulls(run.cfg))
        watch.at(f"step {step}")
        run.clock.lap("data")
        state, metrics = run.functions.train_step(state, batch)
        pending.append((step, metrics, arrays, window))
        if len(pending) > ahead:
            jax.block_until_ready(pending[-1 - ahead][1])
        if step == start or _is_due(step + 1, every.log_every, total):
            _flush(run, pending, meter)


def _flush(run: Parts, pending: list, meter) -> None:
    """Brings the metrics of the steps since the last flush from the devices to the logs, and checks them."""
    import jax

    if not pending:
        return
    watch.at(f"step {pending[-1][0]}")
    fetched = jax.device_get([metrics for _, metrics, _, _ in pending])
    watch.stepped(run.futile)
    started, skipped = run.clock.finish(), {"skipped_batches": float(run.skipped.batches)} if run.skipped.times else {}
    speed = meter.read([arrays for _, _, arrays, _ in pending]) | started
    for (step, _, _, window), metrics in zip(pending, fetched, strict=True):
        values = {name: float(value) for name, value in metrics.items()} | window | skipped
        run.log.metrics("train", step, values | (speed if step == pending[-1][0] else {}))
        run.policy.check(values, step, checked=(pending[0][0], pending[-1][0]), saved=run.saved)
    shown = ("loss", "accuracy", "rollout/reward", "rollout/kl", "speed/tokens_per_s")
    run.log.progress(pending[-1][0] + 1, {name: (values | speed)[name] for name in shown if name in values | speed})
    pending.clear()
    if started:
        run.log.say(run.clock.line())


def _save(run: Parts, state, step: int, held_out_metrics) -> None:
    from jaxalign.config import apart, build
    from jaxalign.training import checkpoint

    tokenizer = build.tokenizer_folder(run.cfg)
    record = checkpoint.run_record(run.cfg.to_dict(), run.model, tokenizer, step=step, skipped=run.skipped, **run.known)
    run.log.flush()  # the lines of what is saved are on disk before it is
    run.saved.save(apart.left_out(run.cfg, run.model, state), step=step, run=record, metrics=held_out_metrics)
    run.futile = ""


def _is_due(step: int, every: int, total: int) -> bool:
    return bool(every) and (step % every == 0 or step == total)


def _summarize(run: Parts, finished: bool, **how) -> None:
    """Writes and shows the run's summary: what `how` specifies of this start, the settings, the data, and the metrics in the logs."""
    from jaxalign.config import describe
    from jaxalign.reports import summary

    settings = describe.settings(run.cfg, run.model, run.lengths)
    summary.write(run.workdir, {"name": run.name, "settings": settings, **describe.facts(run.cfg, run.sets, run.samples, **how)})
    summary.show(run.log.console, run.workdir, finished=finished)


if __name__ == "__main__":
    sys.exit(main())

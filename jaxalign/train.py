"""`python -m jaxalign.train --config configs/NAME.py`: from a configuration to a trained model, in one loop.

Read this file first. A run prepares its data, builds its objects, and goes through the loop of `_loop`, whose order is a contract: evaluate
and save come *before* the step, so a checkpoint of step s is the state after s steps, its data position is s, and what the held-out
metrics of step s say is what the checkpoint holds. Starting again with the same --workdir continues from the newest checkpoint.
"""

import dataclasses
import errno
import logging
import os
from pathlib import Path
import sys

from jaxalign import config as configs

FLAGS = (
    ("--workdir", {"help": "folder of the run (default: runs/NAME); an existing one is continued"}),
    ("--coordinator", {"help": "HOST:PORT of the first process, for several processes; 'auto' on a pod"}),
    ("--processes", {"type": int, "help": "number of processes, with --coordinator HOST:PORT"}),
    ("--process", {"type": int, "help": "number of this process, from 0, with --coordinator HOST:PORT"}),
)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(argv: list[str] | None = None) -> int:
    """Trains every stage of the configuration in turn; returns the exit code."""
    try:
        run = configs.from_command_line(argv, __doc__.splitlines()[0], FLAGS)
        _start_devices(run)
        workdir = Path(run.options.workdir or Path("runs") / run.name)
        for stage, cfg in run.stages.items():
            source = cfg.model.checkpoint or ""
            if source.startswith("stage:"):
                cfg.model.checkpoint = str(workdir / source.removeprefix("stage:") / "export")
            if any((other.model.checkpoint or "") == f"stage:{stage}" for other in run.stages.values()):
                cfg.train.export = True
            if not train(cfg, workdir / stage, name=stage or run.name):
                break
    except (ValueError, FileNotFoundError, RuntimeError, FloatingPointError) as error:
        if os.environ.get("JAXALIGN_TRACEBACK"):
            raise
        print(f"\n{type(error).__name__}: {error}\n(JAXALIGN_TRACEBACK=1 shows where.)", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        print(f"\nThe disk is full: {error}. Free some space and start again with the same command; checkpoints are kept.", file=sys.stderr)
        return 1
    return 0


def train(cfg, workdir: Path, *, name: str) -> bool:
    """Runs one resolved configuration in `workdir`; False if it was asked to stop (SIGTERM, Ctrl-C) before its end.

    Raises:
      ValueError: configuration, data and model do not fit; before anything is compiled.
      CheckpointError: a checkpoint could not be written.
      FloatingPointError: the loss is not finite; the last good checkpoint stays.
    """
    import jax

    from jaxalign import build, checkpoint, report, validate
    from jaxalign.data import loader, store
    from jaxalign.hf import save as hf_save
    from jaxalign.log import RunLog
    from jaxalign.prepare import prepare_from_config

    logging.getLogger("absl").setLevel(logging.WARNING)  # orbax tells of every file
    with jax.set_mesh(build.mesh(cfg)):
        model = build.model(cfg)
        folders = prepare_from_config(cfg)
        sets = [(store.read(folder), weight) for folder, weight in folders["train"]]
        held_out = store.read(folders["eval"]) if folders["eval"] else None
        build.check_data(cfg, model, [prepared for prepared, _ in sets] + ([held_out] if held_out else []))
        lengths = build.durations(cfg, sets)
        hosts = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        batches = loader.batches(sets, rows=cfg.batch.rows, seed=cfg.seed, steps=lengths.total, **hosts)
        functions = build.functions(cfg, model, lengths)
        workdir.mkdir(parents=True, exist_ok=True)
        saved = checkpoint.Checkpoints(
            workdir, keep_last=cfg.train.keep_last, keep_best=cfg.train.keep_best, metric=cfg.train.best_metric
        )
        start = saved.latest or 0
        if start:
            validate.check_same_run(saved.read_run(start)["config"], cfg.to_dict(), workdir)
            state = saved.restore(build.abstract_state(model, functions.init_state), start)
        else:
            state = functions.init_state(build.params(cfg, model))
        log = RunLog(
            workdir, start_step=start, total_steps=lengths.total, wandb=cfg.train.wandb, name=name, config=cfg.to_dict(),
            quiet=jax.process_index() > 0,
        )  # fmt: skip
        log.say(_describe(cfg, model, sets, lengths, start, workdir))
        loop = Loop(cfg, model, functions, batches, held_out, lengths, saved, log, workdir)
        try:
            state, finished = _loop(loop, state, start)
            saved.close()
        finally:
            log.close()
        if finished and cfg.train.export and not build.export_folder(workdir).exists():
            hf_save.save(build.export_folder(workdir), model, state.trainable, tokenizer_from=build.tokenizer_folder(cfg))
        if jax.process_index() == 0:
            report.write(workdir, name=name, facts=_facts(cfg, model, lengths))
            _print_outcome(log.console, report.before_and_after(workdir), workdir, finished)
    return finished


@dataclasses.dataclass
class Loop:
    """What the loop reads; nothing in it changes but the clock."""

    cfg: object
    model: object
    functions: object
    batches: object
    held_out: object
    lengths: object
    saved: object
    log: object
    workdir: Path


def _loop(run: Loop, state, start: int):
    """(state, True) after the last step; (state, False) after a request to stop. Evaluates and saves before the step."""
    import jax

    from jaxalign.data import loader
    from jaxalign.flops import Meter
    from jaxalign.stop import StopRequest

    every, total = run.lengths, run.lengths.total
    batches = loader.iterate(run.batches, start)
    meter = Meter(run.model.config, with_reference=run.cfg.reference.rule != "none")
    stop, pending, held_out_metrics = StopRequest(), [], None
    in_turn = jax.process_count() > 1 and jax.default_backend() == "cpu"  # queued steps of several CPU processes can hang
    for step in range(start, total + 1):
        stopping = stop.requested()
        if run.held_out and not stopping and _is_due(step, every.eval_every, total) and not _has_eval(run.workdir, step):
            _flush(run, pending, meter)
            held_out_metrics = evaluate(run.functions.eval_step, state, run.held_out, rows=run.cfg.batch.rows)
            run.log.metrics("eval", step, held_out_metrics)
            meter.pause()
        if step > start and (stopping or _is_due(step, every.save_every, total)):
            _flush(run, pending, meter)
            _save(run, state, step, held_out_metrics)
            meter.pause()
        if step == total or stopping:
            _flush(run, pending, meter)
            return state, step == total
        arrays = next(batches)
        state, metrics = run.functions.train_step(state, loader.to_device(arrays))
        if in_turn:
            jax.block_until_ready(metrics)
        pending.append((step, metrics, arrays))
        if step == start or _is_due(step + 1, every.log_every, total):
            _flush(run, pending, meter)


def evaluate(eval_step, state, held_out, *, rows: int) -> dict[str, float]:
    """Held-out metrics by name: one pass over a prepared set, summed in float64 over all of it before the division."""
    import jax
    import numpy as np

    from jaxalign.data import loader

    hosts = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    totals: dict[str, np.ndarray] = {}
    for arrays in loader.iterate(loader.eval_batches(held_out, rows=rows, **hosts)):
        for name, pair in jax.device_get(eval_step(state, loader.to_device(arrays))).items():
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
    return {name: float(total / weight) if weight else float("nan") for name, (total, weight) in totals.items()}


def _flush(run: Loop, pending: list, meter) -> None:
    """Brings the metrics of the steps since the last flush from the devices to the logs, and checks them."""
    import jax
    import numpy as np

    if not pending:
        return
    fetched = jax.device_get([metrics for _, metrics, _ in pending])
    speed = meter.read([arrays for _, _, arrays in pending])
    for (step, _, _), metrics in zip(pending, fetched, strict=True):
        values = {name: float(value) for name, value in metrics.items()}
        last = step == pending[-1][0]
        bad = [name for name in ("loss", "grad_norm") if not np.isfinite(values[name])]
        if bad:
            raise FloatingPointError(
                f"{bad[0]} is {values[bad[0]]} at step {step} (steps {pending[0][0]} to {pending[-1][0]} were checked). The newest good "
                f"checkpoint is step {run.saved.latest}; lower optimizer.learning_rate (now {run.cfg.optimizer.learning_rate}) or look at "
                "the rows of that step with jaxalign.inspect, and start again in a new --workdir."
            )
        run.log.metrics("train", step, values | (speed if last else {}))
    shown = ("loss", "rewards/accuracies", "speed/tokens_per_s")
    run.log.progress(pending[-1][0] + 1, {name: (values | speed)[name] for name in shown if name in values | speed})
    pending.clear()


def _save(run: Loop, state, step: int, held_out_metrics) -> None:
    from jaxalign import build, checkpoint

    record = checkpoint.run_record(run.cfg.to_dict(), run.model, build.tokenizer_folder(run.cfg), step)
    run.saved.save(state, step=step, run=record, metrics=held_out_metrics)


def _is_due(step: int, every: int, total: int) -> bool:
    return bool(every) and (step % every == 0 or step == total)


def _has_eval(workdir: Path, step: int) -> bool:
    from jaxalign import log

    path = workdir / log.METRICS
    return path.exists() and any(line["step"] == step for line in log.read_metrics(workdir, "eval"))


def _start_devices(run) -> None:
    """What must be said to jax before it looks at its devices."""
    import jax

    options = run.options
    split = max(cfg.mesh.cpu_devices or 1 for cfg in run.stages.values())
    if split > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", split)
    if options.coordinator == "auto":
        jax.distributed.initialize()
    elif options.coordinator is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(options.coordinator, num_processes=options.processes, process_id=options.process)


def _describe(cfg, model, sets, lengths, start, workdir) -> str:
    import jax

    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.shapes))
    rows = sum(len(prepared) for prepared, _ in sets)
    begun = f"continues at step {start}" if start else "starts"
    return (
        f"{cfg.objective.name} {begun} in {workdir}: {model.config.family} with {parameters / 1e6:,.2f}M parameters, {rows:,} rows of "
        f"{cfg.data.row_tokens} tokens, {lengths.total} steps of {cfg.batch.rows} rows, {jax.device_count()} {jax.devices()[0].platform} "
        f"device(s), reference {cfg.reference.rule}"
    )


def _facts(cfg, model, lengths) -> dict[str, str]:
    import jax

    from jaxalign import flops

    return {
        "objective": cfg.objective.name,
        "model": f"{model.config.family}, {sum(leaf.size for leaf in jax.tree.leaves(model.shapes)):,} parameters",
        "steps": f"{lengths.total} of {cfg.batch.rows} rows x {cfg.data.row_tokens} tokens",
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "peak memory": f"{flops.peak_memory_bytes() / 2**30:.2f} GiB",
    }


def _print_outcome(console, rows, workdir: Path, finished: bool) -> None:
    import rich.table

    if not finished:
        console.print(f"stopped and saved; the same command continues from here: {workdir}", highlight=False)
        return
    if rows:
        table = rich.table.Table("held out", "before", "after")
        for what, before, after in rows:
            table.add_row(what, f"{before:.4f}", f"{after:.4f}")
        console.print(table)
    console.print(f"summary and plots: {workdir / 'summary.md'}, {workdir / 'plots'}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m jaxalign.export`: writes a training run as a Hugging Face checkpoint folder, or its adapters as one of peft."""

from collections.abc import Sequence
import sys

from jaxalign.config.command_line import local, parse, run

FLAGS = (
    ("--workdir", {"required": True, "type": local, "help": "the training run's --workdir"}),
    ("--out", {"required": True, "type": local, "help": "folder to write; must not exist"}),
    ("--step", {"help": "checkpoint to export: its step, or best (default: the newest good one)"}),
    ("--adapter", {"action": "store_true", "help": "of a run with adapters: write these alone, as peft does, and not the merged model"}),
    ("--dtype", {"choices": ("float32", "bfloat16"), "default": "float32", "help": "type of the written weights"}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Restores a run's parameters and writes them to a folder that transformers loads; returns the exit code."""
    return run(_export, arguments)


def _export(arguments):
    given = parse(arguments, __doc__.splitlines()[0], FLAGS, command="export")

    import logging

    import jax  # here, so that --help is fast

    from jaxalign import sharding
    from jaxalign.hf import save
    from jaxalign.training import exports, runs, sources

    save.check_new(given.out)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns that it only reads
    with jax.set_mesh(sharding.whole_mesh()):
        step = runs.chosen(given.workdir, runs.parse_step(given.step, given.workdir))
        model, params, _ = sources.restore_params(given.workdir, step)
        write = exports.write_adapter if given.adapter else exports.write
        write(given.out, model, params, workdir=given.workdir, step=step, dtype=given.dtype)
    print(f"wrote {given.out} ({model.config.family}, {given.dtype}, step {step})")


if __name__ == "__main__":
    sys.exit(main())

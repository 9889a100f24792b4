"""`python -m jaxalign.export`: writes the parameters of a training run as a Hugging Face checkpoint folder."""

from collections.abc import Sequence
from pathlib import Path
import sys

from jaxalign.config.command_line import parse, run

FLAGS = (
    ("--workdir", {"required": True, "help": "the training run's --workdir"}),
    ("--out", {"required": True, "help": "folder to write; must not exist"}),
    ("--step", {"type": int, "help": "checkpoint to export; the latest if not given"}),
    ("--dtype", {"choices": ("float32", "bfloat16"), "default": "float32", "help": "type of the written weights"}),
)

def main(arguments: Sequence[str] | None = None) -> int:
    """Restores a run's parameters and writes them to a folder that transformers loads; returns the exit code."""
    return run(_export, arguments)


def _export(arguments):
    given = parse(arguments, __doc__.splitlines()[0], FLAGS, command="export")
    _check_stage(Path(given.workdir))

    import logging

    import jax  # here, so that --help is fast

    from jaxalign import sharding
    from jaxalign.hf.save import save
    from jaxalign.training import runs

    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns that it only reads
    with jax.set_mesh(sharding.make_mesh(fsdp=-1)):
        model, params, run = runs.restore_params(given.workdir, step=given.step)
        save(given.out, model, params, tokenizer_from=run["tokenizer"], dtype=given.dtype)
    print(f"wrote {given.out} ({model.config.family}, {given.dtype})")


def _check_stage(workdir):
    if (workdir / "checkpoints").is_dir():
        return
    stages = sorted(path.parent.name for path in workdir.glob("*/checkpoints"))
    if stages:
        raise ValueError(f"{workdir} has stages {', '.join(stages)}; give --workdir {workdir / stages[0]}, or another of them.")


if __name__ == "__main__":
    sys.exit(main())

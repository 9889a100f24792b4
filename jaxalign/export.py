"""`python -m jaxalign.export`: writes the parameters of a training run as a Hugging Face checkpoint folder."""

import argparse
from collections.abc import Sequence
import os
from pathlib import Path
import sys


def main(arguments: Sequence[str] | None = None) -> int:
    """Restores a run's parameters and writes them to a folder that transformers loads; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jaxalign.export", description=__doc__)
    parser.add_argument("--workdir", required=True, help="the training run's --workdir")
    parser.add_argument("--out", required=True, help="folder to write; must not exist")
    parser.add_argument("--step", type=int, help="checkpoint to export; the latest if not given")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the written weights")
    given = parser.parse_args(arguments)
    try:
        _export(given)
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("JAXALIGN_TRACEBACK"):
            raise
        print(f"{type(error).__name__}: {error}\n(JAXALIGN_TRACEBACK=1 shows where.)", file=sys.stderr)
        return 1
    return 0


def _export(given):
    _check_stage(Path(given.workdir))

    import logging

    import jax  # here, so that --help is fast

    from jaxalign import sharding
    from jaxalign.hf.save import save
    from jaxalign.training import checkpoint

    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns that it only reads
    with jax.set_mesh(sharding.make_mesh(fsdp=-1)):
        model, params, run = checkpoint.restore_params(given.workdir, step=given.step)
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

"""Computes columns that models give the data, reference log-probs, margins or advantages, and keeps them beside the prepared rows.

    python -m jaxalign.annotate --config configs/NAME.py

`train` does the same by itself when a column of data.computed is not there.
"""

from collections.abc import Sequence
import sys

from jaxalign.config.command_line import from_command_line, local, run, start_devices, workdir_of

FLAGS = (("--workdir", {"type": local, "help": "folder of the run whose stages data.computed names (default: runs/NAME)"}),)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the columns of every stage of a configuration and reports on them; returns the exit code."""
    return run(_annotate, argv)


def _annotate(argv):
    asked = from_command_line(argv, __doc__.splitlines()[0], FLAGS, command="annotate")
    start_devices(asked)
    import jax

    from jaxalign.config import build
    from jaxalign.config.computed import has_columns, with_columns
    from jaxalign.config.prepared import prepared_sets
    from jaxalign.config.stages import place_stages, training_stages

    if not any(map(has_columns, training_stages(asked.stages).values())):
        raise ValueError(f"{asked.options.config} computes no column; name columns in data.computed.")
    for cfg in training_stages(asked.stages).values():
        place_stages(cfg, workdir_of(asked))
        with jax.set_mesh(build.mesh(cfg)):
            for prepared in with_columns(cfg, prepared_sets(cfg)).all:
                _report(prepared)


def _report(prepared):
    for name, values in prepared.groups.columns.items():
        valid = values[prepared.groups.valid] if values.ndim == 2 else values
        spread = f"mean {valid.mean():.4g}, standard deviation {valid.std():.4g}, {(valid > 0).mean():.1%} above 0"
        print(f"{prepared.folder.parent.name}: {name}: {len(valid):,} numbers, {spread}")


if __name__ == "__main__":
    sys.exit(main())

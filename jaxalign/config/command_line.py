"""What every command shares: `--config FILE`, overrides, its own flags."""

import argparse
import os
from pathlib import Path
import re
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxalign.config.files import load_file, override
from jaxalign.config.resolve import ConfigError
from jaxalign.config.stages import resolve_stages


class Run(NamedTuple):
    """What the command line asked for."""

    name: str  # of the config file, without .py; with "_ARGUMENT" where it was given one
    stages: dict[str, ConfigDict]  # stage name -> resolved configuration; one stage called "" where the config has none
    options: argparse.Namespace  # the other flags of the entry point


def from_command_line(argv: list[str] | None, description: str, flags=()) -> Run:
    """Parses `--config FILE --config.a.b=value ...` and the entry point's own flags.

    Args:
      argv: arguments without the program's name; None reads sys.argv.
      description: first line of --help.
      flags: (name, dict of argparse options) of the entry point.

    Raises:
      ConfigError: everything that is wrong with the configuration.
    """
    parser = argparse.ArgumentParser(description=description, epilog="Any key of the config: --config.optimizer.learning_rate=1e-6")
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARGUMENT]", help="Python file with get_config()")
    for name, options in flags:
        parser.add_argument(name, **options)
    options, rest = parser.parse_known_args(argv)
    unknown = [argument for argument in rest if not argument.startswith("--config.")]
    if unknown:
        parser.error(f"unknown arguments {unknown}; overrides are written --config.KEY=VALUE")
    config = load_file(options.config)
    override(config, rest)
    path, _, argument = options.config.partition(":")
    name = Path(path).stem + (f"_{re.sub(r'[^A-Za-z0-9.=_-]+', '-', argument)}" if argument else "")
    return Run(name, resolve_stages(config), options)


def start_devices(run: Run) -> None:
    """Settings that jax must get before it initialises its devices: how many a CPU is split into, and the other processes."""
    import jax

    options = run.options
    if (options.processes, options.process) != (None, None) and options.coordinator in (None, "auto"):
        raise ConfigError("--processes and --process go with --coordinator HOST:PORT of the first process; give all three.")
    split = max((cfg.mesh.cpu_devices or 1 for cfg in run.stages.values() if "experiment" not in cfg), default=1)
    if split > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", split)
    if options.coordinator == "auto":
        jax.distributed.initialize()
    elif options.coordinator is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(options.coordinator, num_processes=options.processes, process_id=options.process)

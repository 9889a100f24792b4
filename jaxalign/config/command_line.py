"""What every command shares: flags, `--config FILE` with its overrides, the devices, and the one way to print an error.

A command is a module with a function `main(argv) -> exit code` that hands its body to `run`. Nothing heavy is imported before it is needed,
so that `--help` answers at once.
"""

import argparse
from collections.abc import Callable, MutableMapping, Sequence
import difflib
import errno
import glob
import importlib.util
import os
from pathlib import Path
import re
import sys
import traceback
from typing import Any, NamedTuple
import zlib

from jaxalign import hidden
from jaxalign.hosts import watch
from jaxalign.paths import cache, resolve

TRACEBACK = "JAXALIGN_TRACEBACK"  # environment variable: any value shows the traceback of an error
PROGRAMS, JAX_PROGRAMS = "JAXALIGN_PROGRAMS", "JAX_COMPILATION_CACHE_DIR"  # environment variables: where compiled programs are kept
INTERRUPTED = 130  # exit code of a process that Ctrl-C ended, by the convention of shells
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EXPECTED = (ValueError, OSError, RuntimeError, FloatingPointError, ImportError, MemoryError)  # what bad input and a bad machine raise
ANY_KEY = "Any key of the config: --config.optimizer.learning_rate=1e-6"  # last line of --help
GOOGLE_PCI_VENDOR = "0x1ae0"
GPU_SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # environment variables of jax: its share of a card's memory

Flags = Sequence[tuple[str, dict[str, Any]]]  # (name, options of argparse)
PROCESSES: Flags = (  # of commands that several processes run together
    ("--coordinator", {"help": "HOST:PORT of the first process, for several processes; 'auto' on a TPU slice, under Slurm, in Kubernetes"}),
    ("--processes", {"type": int, "help": "number of processes, with --coordinator HOST:PORT"}),
    ("--process", {"type": int, "help": "number of this process, from 0, with --coordinator HOST:PORT"}),
)


class Run(NamedTuple):
    """What the command line asked for."""

    name: str  # of the config file, without .py; with "_ARGUMENT" where it was given one
    stages: dict[str, Any]  # stage name -> resolved ConfigDict; one stage called "" where the config has none
    options: argparse.Namespace  # the other flags of the command


def run(body: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """The exit code of a command: what its body returns (None: 0), or 1 after printing the error that it raised, as one sentence.

    Nothing is raised on: Python itself would print the traceback with the tokens that are in it.
    """
    _leave_missing_tpu_alone()
    keep_programs(os.environ)
    take_gpu_memory(os.environ)
    try:
        return body(argv) or 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return watch.fail(INTERRUPTED, "interrupted")
    except Exception as error:
        shown = traceback.format_exc() if os.environ.get(TRACEBACK) else f"\n{sentence(error)}\n({TRACEBACK}=1 shows where.)"
        print(hidden.without(shown), file=sys.stderr)
        return watch.fail(1, sentence(error))


def keep_programs(environ: MutableMapping[str, str]) -> None:
    """Has jax keep compiled programs in $JAXALIGN_CACHE or ~/.cache/jaxalign, so that the same step compiles once on this kind of machine.

    $JAXALIGN_PROGRAMS is another folder, or "off". Jax's own variable for it counts before both. Jax must not be imported yet.
    """
    asked = environ.get(PROGRAMS, "")
    if asked == "off" or JAX_PROGRAMS in environ:
        return
    file = Path("/proc/cpuinfo")  # a program for a CPU need not run on another one that shares the home folder
    lines = file.read_text().splitlines() if file.is_file() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    environ[JAX_PROGRAMS] = str(resolve(asked) if asked else cache(environ) / "programs" / f"{zlib.crc32(features.encode()):08x}")


def take_gpu_memory(environ: MutableMapping[str, str]) -> None:
    """Has jax use as much of a card's memory as `plan` counts on, not three quarters of it. Jax must not be imported yet.

    Cards have some percent more than the size that they are named after (`chips.py`): what is left is for the driver and its libraries.
    What the user set stands.
    """
    if not any(name in environ for name in GPU_SHARES):
        environ[GPU_SHARES[-1]] = "0.93"


def sentence(error: Exception) -> str:
    """What a person reads of an error: its kind, its message, and the way out where the message cannot contain it."""
    kind = type(error).__name__ if isinstance(error, EXPECTED) else f"{type(error).__name__} inside jaxalign, which is a fault of its own"
    way_out = ""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        way_out = ". Free some space and start again with the same command; checkpoints are kept."
    elif isinstance(error, OSError) and error.errno is not None:
        way_out = ". Check the path and its permissions."
    return hidden.without(f"{kind}: {error}{way_out}")


def parse(argv: Sequence[str] | None, description: str, flags: Flags, *, command: str) -> argparse.Namespace:
    """The flags of a command that takes no configuration."""
    parser = _parser(description, command)
    _add(parser, flags)
    _check_once(parser, argv)
    return parser.parse_args(argv)


def parse_with_overrides(
    argv: Sequence[str] | None, description: str, flags: Flags, *, command: str
) -> tuple[argparse.Namespace, list[str]]:
    """(the flags of a command, what is written --config.KEY=VALUE): for commands whose configuration need not be a file."""
    parser = _parser(description, command, epilog=ANY_KEY)
    _add_help(parser)
    _add(parser, flags)
    return _parsed(parser, argv)


def from_command_line(argv: Sequence[str] | None, description: str, flags: Flags = (), *, command: str = "", instead: str = "") -> Run:
    """Parses `--config FILE --config.a.b=value ...` and the command's own flags.

    Args:
      argv: arguments without the program's name; None reads sys.argv.
      description: first line of --help.
      flags: (name, dict of argparse options) of the command.
      command: its name, for the usage line.
      instead: a flag that may stand in the place of --config; the stages are then empty.

    Raises:
      ConfigError: everything that is wrong with the configuration.
    """
    parser = _parser(description, command, epilog=ANY_KEY)
    parser.add_argument("--config", metavar="FILE.py[:ARGUMENT]", help="Python file with get_config()")
    _add_help(parser)
    _add(parser, flags)
    options, overrides = _parsed(parser, argv)
    if instead and getattr(options, instead.strip("-")):
        if options.config or overrides:
            parser.error(f"{instead} stands in the place of --config; give one of them")
        return Run("", {}, options)
    if not options.config:
        parser.error(f"--config FILE.py is missing{f'; or give {instead}' if instead else ''}")
    from jaxalign.config.files import load_file, override
    from jaxalign.config.stages import resolve_stages

    config = load_file(options.config)
    override(config, overrides)
    path, _, argument = options.config.partition(":")
    name = Path(path).stem + (f"_{re.sub(r'[^A-Za-z0-9.=_-]+', '-', argument)}" if argument else "")
    return Run(name, resolve_stages(config), options)


def _check_once(parser, argv):
    """Ends the program where a flag or a key is given twice and the first would have no effect."""
    lists = {name for action in parser._actions if isinstance(action, argparse._AppendAction) for name in action.option_strings}
    names = [argument.partition("=")[0] for argument in (sys.argv[1:] if argv is None else argv) if argument.startswith("--")]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1 and name not in lists]:
        parser.error(f"{twice[0]} is given {names.count(twice[0])} times; keep one of them")


def _parsed(parser, argv):
    _check_once(parser, argv)
    options, rest = parser.parse_known_args(argv)
    overrides = [argument for argument in rest if argument.startswith("--config.")]
    if options.help_config is not None:
        from jaxalign.config import keys

        print(keys.text(options.help_config))
        parser.exit()
    if unknown := [argument for argument in rest if argument not in overrides]:
        parser.error(f"unknown arguments {unknown}{_meant(unknown[0], parser)}; overrides are written --config.KEY=VALUE")
    return options, overrides


def local(text: str) -> str:
    """The path that a flag names, where ~ is the home folder: a shell leaves it as it is in --workdir=~/run."""
    if "://" in (text or ""):
        address = hidden.without(text)
        raise argparse.ArgumentTypeError(
            f"{address} is no folder: give one of this machine. A run with train.mirror={address!r} keeps a copy there and goes on from "
            "it, also on a new disk; to read a copy, bring it here (aws s3 sync, gcloud storage rsync) or mount the bucket"
        )
    return text and str(resolve(text))


def workdir_of(asked: Run) -> Path:
    """The folder of a run: that of --workdir, or runs/NAME."""
    return Path(asked.options.workdir or Path("runs") / asked.name)


def start_devices(asked: Run) -> None:
    """Settings that jax must get before it initialises its devices: how many a CPU is split into, and the other processes.

    Raises:
      ConfigError: the flags or the variables for several processes are incomplete.
    """
    import jax

    from jaxalign.config import processes
    from jaxalign.config.stages import training_stages

    flags = (getattr(asked.options, name, None) for name in ("coordinator", "processes", "process"))
    others = processes.find(*flags, os.environ)
    split = max((cfg.mesh.cpu_devices or 1 for cfg in training_stages(asked.stages).values()), default=1)
    if split > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", split)
    if others:
        processes.connect(others)


def _parser(description, command, **options):
    return argparse.ArgumentParser(prog=f"python -m jaxalign.{command}" if command else None, description=description, **options)


def _add_help(parser):
    parser.add_argument("--help-config", nargs="?", const="", metavar="SECTION", help="explain the keys of a section, and exit")


def _add(parser, flags):
    for name, options in flags:
        parser.add_argument(name, **options)


def _meant(argument, parser):
    known = [name for action in parser._actions for name in action.option_strings]
    close = difflib.get_close_matches(argument.partition("=")[0], known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _leave_missing_tpu_alone():
    """Keeps jax from starting libtpu on a machine without a TPU, which takes seconds and prints lines of warnings.

    jax looks for the chips in the same place; where another accelerator's plugin is installed, the choice is left to it.
    """
    if "JAX_PLATFORMS" in os.environ or "JAX_FORCE_TPU_INIT" in os.environ or importlib.util.find_spec("libtpu") is None:
        return
    from importlib import metadata  # slow to import

    vendors = {Path(file).read_text().strip() for file in glob.glob("/sys/bus/pci/devices/*/vendor")}
    plugins = metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("jax_plugins")
    if GOOGLE_PCI_VENDOR not in vendors and not plugins:
        os.environ["JAX_PLATFORMS"] = "cpu"  # read when jax is imported

"""How a process finds the others of its run: flags, variables, Slurm, Kubernetes, or what jax itself asks (a TPU slice, Open MPI).

jax.distributed.initialize() detects TPU slices, Open MPI and Slurm. This file adds what it lacks. Under Slurm jax gives every process one
GPU, also where a node has one process for all of them; in a pod of Kubernetes it needs another package and the right to read the cluster's
API; and it reads no variables for the number of processes and of this process.
"""

from collections.abc import Mapping
import importlib.util
import re
import sys
from typing import NamedTuple

from jaxalign.config.resolve import ConfigError

ADDRESS = re.compile(r"(\[[^\]]+\]|[^:\s\[\]]+):\d+")  # HOST:PORT, [IPv6]:PORT
FIRST_NODE = re.compile(r"([^,\[]+)(?:\[([^,\-\]]+))?")  # of node[07-09,12],other: node07
SLURM_PORTS = 61440, 4096  # the first and how many: a job's port follows from its number, as in jax
ASKED_BY_JAX = {  # variable -> what the user calls it
    "OMPI_MCA_orte_hnp_uri": "Open MPI",
    "TPU_PROCESS_ADDRESSES_PATH": "the TPU slice",
    "TPU_PROCESS_ADDRESSES": "the TPU slice",
    "TPU_WORKER_HOSTNAMES": "the TPU slice",
}
HEARTBEAT_S = 900
BY_HAND = "--coordinator HOST:PORT --processes N --process I"


class Processes(NamedTuple):
    """The processes of a run, and which of them this one is."""

    source: str  # where this is from, for the user
    coordinator: str | None = None  # HOST:PORT of the first process; None: jax asks
    count: int | None = None
    number: int | None = None
    devices: list[int] | None = None  # GPUs of this host that are this process's; None: all that it sees


def find(coordinator: str | None, count: int | None, number: int | None, environ: Mapping[str, str]) -> Processes | None:
    """The processes that the flags --coordinator, --processes, --process or the environment specify; None: this one is alone.

    Raises:
      ConfigError: a flag or a variable is missing or impossible; it is named.
    """
    if coordinator in (None, "auto"):
        if (count, number) != (None, None):
            raise ConfigError("--processes and --process go with --coordinator HOST:PORT of the first process; give all three.")
        return None if coordinator is None else _of_environment(environ)
    if None in (count, number):
        raise ConfigError(f"--coordinator {coordinator} needs --processes N and --process I as well; or write --coordinator auto.")
    return _checked(Processes("flags", coordinator, count, number), ("--coordinator", "--processes", "--process"))


def connect(processes: Processes) -> None:
    """Waits for the other processes; after it jax shows the devices of all.

    jax ends a process HEARTBEAT_S after another one fell silent, without a word of ours; `hosts.watch` is faster.

    Raises:
      ConfigError: nothing here says which the others are.
    """
    import jax

    if processes.coordinator is None:
        print(f"asking {processes.source} for the other processes", file=sys.stderr)
        try:
            jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_S)
        except ValueError as error:  # jax's own sentence names an argument of its function
            raise ConfigError(
                "--coordinator auto finds no other processes: this is no TPU slice, no step of Slurm (srun), no pod of Kubernetes, no "
                f"Open MPI, and JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID are not set. Give {BY_HAND}."
            ) from error
        return
    print(
        f"process {processes.number} of {processes.count} ({processes.source}): waiting for all at {processes.coordinator}", file=sys.stderr
    )
    options = {"cluster_detection_method": "deactivate", "heartbeat_timeout_seconds": HEARTBEAT_S}
    jax.distributed.initialize(processes.coordinator, processes.count, processes.number, processes.devices, **options)


def _of_environment(environ) -> Processes:
    if "JAX_NUM_PROCESSES" in environ or "JAX_PROCESS_ID" in environ:
        return _of_variables(environ)
    for variable, source in ASKED_BY_JAX.items():
        if variable in environ:
            return Processes(source)
    if "SLURM_JOB_ID" in environ:
        return _of_slurm(environ)
    if "KUBERNETES_SERVICE_HOST" in environ and importlib.util.find_spec("kubernetes") is None:
        return _of_variables(environ)
    return Processes("the metadata of this machine")


def _of_variables(environ) -> Processes:
    number = "JAX_PROCESS_ID" if "JAX_PROCESS_ID" in environ else "JOB_COMPLETION_INDEX"
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", number)
    if missing := [name for name in names if name not in environ]:
        if "JOB_COMPLETION_INDEX" in missing:
            missing[-1] = "JAX_PROCESS_ID (or JOB_COMPLETION_INDEX, which a job of Kubernetes has with completionMode: Indexed)"
        raise ConfigError(f"--coordinator auto needs the variable {' and '.join(missing)}; or give {BY_HAND}.")
    found = Processes("variables", _address(environ), _whole(environ, names[1]), _whole(environ, number))
    return _checked(found, names)


def _of_slurm(environ) -> Processes:
    if "SLURM_STEP_NODELIST" not in environ:
        raise ConfigError("this is a job of Slurm, but not a step of it: start the command with srun, one process per node.")
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    names = ("SLURM_STEP_NODELIST", tasks, "SLURM_PROCID")
    if missing := [name for name in (*names, "SLURM_LOCALID", "SLURM_STEP_NUM_NODES") if name not in environ]:
        raise ConfigError(f"this is a step of Slurm without the variable {' and '.join(missing)}; start the command with srun.")
    first, job = FIRST_NODE.match(environ["SLURM_STEP_NODELIST"]), _whole(environ, "SLURM_JOB_ID")
    port = environ.get("JAX_COORDINATOR_PORT", str(SLURM_PORTS[0] + job % SLURM_PORTS[1]))
    address = _address(environ) or f"{''.join(first.groups(''))}:{port}"
    count, number = _whole(environ, tasks), _whole(environ, "SLURM_PROCID")
    shared = count > _whole(environ, "SLURM_STEP_NUM_NODES") and "," in environ.get("CUDA_VISIBLE_DEVICES", ",")
    return _checked(Processes("Slurm", address, count, number, [_whole(environ, "SLURM_LOCALID")] if shared else None), names)


def _address(environ) -> str | None:
    address, port = environ.get("JAX_COORDINATOR_ADDRESS"), environ.get("JAX_COORDINATOR_PORT")
    return f"{address}:{port}" if address and port and ":" not in address else address


def _whole(environ, name) -> int:
    if not environ[name].isdecimal():
        raise ConfigError(f"the variable {name}={environ[name]!r} is no whole number.")
    return int(environ[name])


def _checked(processes: Processes, names) -> Processes:
    """`processes`, whose address, count and number have these names."""
    address, count, number = names
    if not ADDRESS.fullmatch(processes.coordinator):
        raise ConfigError(f"{address} {processes.coordinator!r} is not HOST:PORT, such as 10.0.0.1:8476.")
    if not 0 <= processes.number < processes.count:
        raise ConfigError(f"{number} {processes.number} is not one of {count} {processes.count}: processes are numbered from 0 to N - 1.")
    return processes

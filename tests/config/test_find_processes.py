"""Where a process learns of the others: flags, variables, Slurm, Kubernetes, or jax; with dicts in the place of the environment."""

import pytest

from jaxalign.config import processes
from jaxalign.config.processes import Processes, find
from jaxalign.config.resolve import ConfigError

STEP = {
    "SLURM_JOB_ID": "4099",
    "SLURM_STEP_NODELIST": "gpu[07-09,12],other",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
PER_GPU = STEP | {"SLURM_NTASKS": "32", "SLURM_PROCID": "21", "SLURM_LOCALID": "5"}
VARIABLES = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:99", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "2"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


@pytest.fixture(autouse=True)
def no_kubernetes_package(monkeypatch):
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (VARIABLES, Processes("variables", "10.0.0.1:99", 3, 2)),
        (VARIABLES | STEP, Processes("variables", "10.0.0.1:99", 3, 2)),
        (VARIABLES | {"JAX_COORDINATOR_ADDRESS": "a", "JAX_COORDINATOR_PORT": "7"}, Processes("variables", "a:7", 3, 2)),
        (POD | VARIABLES, Processes("variables", "10.0.0.1:99", 3, 2)),
        (POD | {"JAX_COORDINATOR_ADDRESS": "a:7", "JAX_NUM_PROCESSES": "2"}, Processes("variables", "a:7", 2, 1)),
        (STEP, Processes("Slurm", "gpu07:61443", 4, 2)),
        (STEP | {"SLURM_STEP_NODELIST": "one,two"}, Processes("Slurm", "one:61443", 4, 2)),
        (STEP | {"SLURM_STEP_NODELIST": "one"}, Processes("Slurm", "one:61443", 4, 2)),
        (STEP | {"JAX_COORDINATOR_PORT": "99"}, Processes("Slurm", "gpu07:99", 4, 2)),
        (STEP | {"JAX_COORDINATOR_ADDRESS": "b:5"}, Processes("Slurm", "b:5", 4, 2)),
        (STEP | {"SLURM_STEP_NUM_TASKS": "3"}, Processes("Slurm", "gpu07:61443", 3, 2)),
        (PER_GPU, Processes("Slurm", "gpu07:61443", 32, 21, [5])),
        (PER_GPU | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, Processes("Slurm", "gpu07:61443", 32, 21, [5])),
        (PER_GPU | {"CUDA_VISIBLE_DEVICES": "5"}, Processes("Slurm", "gpu07:61443", 32, 21)),
        (POD | {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, Processes("the TPU slice")),
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://a:1"} | STEP, Processes("Open MPI")),
        ({}, Processes("the metadata of this machine")),
    ],
)
def test_processes_of_the_environment(environ, expected):
    assert find("auto", None, None, environ) == expected


def test_a_pod_with_the_package_of_kubernetes_is_left_to_jax(monkeypatch):
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: name)
    assert find("auto", None, None, POD) == Processes("the metadata of this machine")


def test_processes_of_flags_and_of_none():
    assert find("a:1", 2, 1, STEP) == Processes("flags", "a:1", 2, 1)
    assert find("[fe80::1]:1", 1, 0, {}) == Processes("flags", "[fe80::1]:1", 1, 0)
    assert find(None, None, None, STEP | VARIABLES) is None


@pytest.mark.parametrize(
    ("flags", "environ", "words"),
    [
        ((None, 2, 1), {}, "--processes and --process go with --coordinator HOST:PORT"),
        (("auto", None, 1), {}, "--processes and --process go with --coordinator HOST:PORT"),
        (("a:1", 2, None), {}, "--coordinator a:1 needs --processes N and --process I as well"),
        (("a", 2, 1), {}, "--coordinator 'a' is not HOST:PORT"),
        (("a:b:1", 2, 1), {}, "--coordinator 'a:b:1' is not HOST:PORT"),
        (("a:1", 2, 2), {}, "--process 2 is not one of --processes 2: processes are numbered from 0 to N - 1"),
        (("auto", None, None), {"JAX_PROCESS_ID": "1"}, "needs the variable JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES; or "),
        (("auto", None, None), {"JAX_NUM_PROCESSES": "1", "JAX_COORDINATOR_ADDRESS": "a:1"}, "needs the variable JAX_PROCESS_ID (or JOB_"),
        (("auto", None, None), POD, "needs the variable JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES"),
        (("auto", None, None), VARIABLES | {"JAX_COORDINATOR_ADDRESS": "a"}, "JAX_COORDINATOR_ADDRESS 'a' is not HOST:PORT"),
        (("auto", None, None), VARIABLES | {"JAX_NUM_PROCESSES": "two"}, "the variable JAX_NUM_PROCESSES='two' is no whole number"),
        (("auto", None, None), VARIABLES | {"JAX_PROCESS_ID": "3"}, "JAX_PROCESS_ID 3 is not one of JAX_NUM_PROCESSES 3"),
        (("auto", None, None), {"SLURM_JOB_ID": "1"}, "start the command with srun"),
        (("auto", None, None), {k: v for k, v in STEP.items() if k != "SLURM_PROCID"}, "a step of Slurm without the variable SLURM_PROCID"),
    ],
)
def test_what_is_missing_or_impossible_is_named(flags, environ, words):
    with pytest.raises(ConfigError) as error:
        find(*flags, environ)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("found", "arguments", "line"),
    [
        (Processes("Slurm", "a:1", 32, 21, [5]), ("a:1", 32, 21, [5]), "process 21 of 32 (Slurm): waiting for all at a:1"),
        (Processes("flags", "a:1", 2, 0), ("a:1", 2, 0, None), "process 0 of 2 (flags): waiting for all at a:1"),
        (Processes("the TPU slice"), (), "asking the TPU slice for the other processes"),
    ],
)
def test_jax_detects_only_what_is_left_to_it(monkeypatch, capsys, found, arguments, line):
    import jax

    given = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *words, **options: given.append((words, options)))
    processes.connect(found)
    heartbeat = {"heartbeat_timeout_seconds": processes.HEARTBEAT_S}
    assert given == [(arguments, {"cluster_detection_method": "deactivate", **heartbeat} if arguments else heartbeat)]
    assert capsys.readouterr().err.strip() == line


def test_a_machine_that_is_alone_is_told_what_to_set(monkeypatch):
    for variable in ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST", "JAX_COORDINATOR_ADDRESS", *processes.ASKED_BY_JAX):
        monkeypatch.delenv(variable, raising=False)

    def initialize(**_):  # as jax does where it finds nothing; the real one must come before any use of jax
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    with pytest.raises(ConfigError, match=r"finds no other processes: .* Give --coordinator HOST:PORT --processes N --process I"):
        processes.connect(Processes("the metadata of this machine"))
